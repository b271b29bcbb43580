"""Statistics of samples and reference -> one JSON of numbers that says all they depend on."""

from importlib.metadata import version
from pathlib import Path

from selftrans.evaluation.metrics import measure
from selftrans.evaluation.statistics import ImageStatistics
from selftrans.runtime.errors import UserError
from selftrans.runtime.events import scalars, write_event_file
from selftrans.runtime.files import read_fields, write_json
from selftrans.runtime.headers import read_metadata
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    description = read_fields(Path(snakemake.input.description), checkpoint=dict)
    for key in ("run", "seed", "step"):
        found, expected = description["checkpoint"].get(key), snakemake.wildcards[key]
        if str(found) != expected:
            raise UserError(
                f"{snakemake.input.description}: samples of {key} {found}, expected is {expected}"
            )
    samples = ImageStatistics.load(Path(snakemake.input.statistics))
    if samples.count != (expected := description.get("num_samples")):
        raise UserError(
            f"{snakemake.input.statistics}: of {samples.count} images, the samples are {expected}"
        )
    reference = ImageStatistics.load(Path(snakemake.input.reference))
    params = snakemake.params
    measured = measure(
        params.metrics, samples, reference, params.distances, snakemake.resources.gpu
    )
    extractor = {"name": samples.extractor, "digest": samples.digest}
    for path in snakemake.input.classifier:
        accuracy = read_metadata(Path(path), "classifier")["held_out_accuracy"]
        extractor["held_out_accuracy"] = accuracy
    result = {
        "metrics": measured.values,
        "spreads": measured.spreads,
        "extractor": extractor,
        "num_features": samples.num_features,
        "num_samples": samples.count,
        "num_reference": reference.count,
        "reference": {
            "name": params.reference,
            "digest": reference.moments_digest,
            "moments": reference.moments,
        },
        "distances": params.distances,
        "samples": description,
        "versions": {name: version(name) for name in ("selftrans", "numpy", "scipy", "torch")},
    }
    names = snakemake.wildcards
    samples_name = f"{names.sampler}-n{names.number}"
    shown = {
        f"{samples_name}/{names.extractor}/{metric}": value
        for metric, value in result["metrics"].items()
        if isinstance(value, float)
    }
    name = f"{samples_name}-{names.extractor}"
    write_event_file(Path(params.events), name, int(names.step), scalars(shown))
    write_json(Path(snakemake.output[0]), result)
