"""Statistics of samples and reference -> one JSON of numbers that says all they depend on."""

from importlib.metadata import version
from pathlib import Path

from selftrans.evaluation.metrics import compute_metrics
from selftrans.evaluation.statistics import ImageStatistics
from selftrans.runtime.files import read_json, write_json
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    samples = ImageStatistics.load(Path(snakemake.input.statistics))
    reference = ImageStatistics.load(Path(snakemake.input.reference))
    params = snakemake.params
    result = {
        "metrics": compute_metrics(
            params.metrics, samples, reference, params.distances, snakemake.resources.gpu
        ),
        "extractor": {"name": samples.extractor, "digest": samples.digest},
        "num_samples": samples.count,
        "num_reference": reference.count,
        "reference": {"name": params.reference, "digest": reference.moments_digest},
        "distances": params.distances,
        "samples": read_json(Path(snakemake.input.description)),
        "versions": {name: version(name) for name in ("selftrans", "numpy", "scipy", "torch")},
    }
    write_json(Path(snakemake.output[0]), result)
