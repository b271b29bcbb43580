"""Features of a run -> how much of the class probes read off them."""

from pathlib import Path

from selftrans.evaluation.probes import probe_cases, probe_rows
from selftrans.evaluation.run_features import RunFeatures
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    features = RunFeatures.load(Path(snakemake.input.features))
    table = probe_rows(
        probe_cases(features), features.labels, features.held_out, snakemake.params.neighbours
    )
    write_text(Path(snakemake.output[0]), table.to_csv(index=False))
