"""Features of a run, or of an encoder -> how much of the class probes read off them."""

from pathlib import Path

import numpy as np

from selftrans.evaluation.probes import probe_rows
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    with np.load(snakemake.input.features, allow_pickle=False) as arrays:
        held = dict(arrays)
    times = held["times"].tolist()
    cases = [
        ("block", "", block, t, "nothing", features)
        for t, blocks in zip(times, held["pooled"], strict=True)
        for block, features in enumerate(blocks, start=1)
    ]
    for kind, told in (("guiding", "the label"), ("blind", "nothing")):
        for number, name in enumerate(held[f"{kind}_names"].tolist()):
            found = held[f"{kind}_pooled_{number}"]
            cases += [
                ("guiding", name, 0, t, told, features)
                for t, features in zip(times, found, strict=True)
            ]
    table = probe_rows(cases, held["labels"], held["held_out"], snakemake.params.neighbours)
    write_text(Path(snakemake.output[0]), table.to_csv(index=False))
