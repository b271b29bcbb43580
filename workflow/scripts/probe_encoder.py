"""Stored patch tokens of an encoder -> how much of the class probes read off their means."""

from pathlib import Path

import numpy as np

from selftrans.data.store import FeatureStore
from selftrans.evaluation.probes import probe_rows
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    store = FeatureStore(snakemake.input.store)
    with np.load(snakemake.input.features, allow_pickle=False) as arrays:
        images, labels, held_out = (arrays[name] for name in ("images", "labels", "held_out"))
    parts = [store.rows[part].mean(axis=1, dtype=np.float32) for part in np.array_split(images, len(images) // 256 + 1)]
    case = ("encoder", store.name, 0, 0.0, "nothing", np.concatenate(parts))
    table = probe_rows([case], labels, held_out, snakemake.params.neighbours)
    write_text(Path(snakemake.output[0]), table.to_csv(index=False))
