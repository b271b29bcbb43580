"""Statistics of samples and reference -> one JSON of numbers that says all they depend on."""

from importlib.metadata import version
from pathlib import Path

from selftrans.evaluation.metrics import compute_metrics
from selftrans.evaluation.statistics import Statistics
from selftrans.runtime.files import read_json, write_json
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    samples = Statistics.load(Path(snakemake.input.statistics))
    reference = Statistics.load(Path(snakemake.input.reference))
    description = read_json(Path(snakemake.input.description))
    result = {
        "metrics": compute_metrics(snakemake.params.metrics, samples, reference),
        "extractor": {"name": samples.extractor, "digest": samples.extractor_digest},
        "num_samples": samples.count,
        "num_reference": reference.count,
        "samples": description,
        "versions": {name: version(name) for name in ("selftrans", "numpy", "scipy")},
    }
    write_json(Path(snakemake.output[0]), result)
