"""Stored features of a set of samples -> FIDs of sets that are resampled from its images."""

from pathlib import Path

from selftrans.data.manifests import Manifest, read_manifest
from selftrans.evaluation.bootstrap import SEED, resampled_fids
from selftrans.evaluation.statistics import ImageStatistics
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import write_json
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    samples = ImageStatistics.load(Path(snakemake.input.statistics))
    reference = ImageStatistics.load(Path(snakemake.input.reference))
    if samples.features is None or samples.digest != reference.digest:
        raise UserError(
            f"{snakemake.input.statistics}: without its features, or of another extractor than"
            f" {snakemake.input.reference}"
        )
    count, classes = int(snakemake.wildcards.resamples), 1
    if snakemake.params.balanced:
        classes = read_manifest(Path(snakemake.input.latents), Manifest).num_classes
    fids = resampled_fids(samples.features, reference.gaussians["features"], count, classes)
    content = {
        "fids": fids.tolist(), "seed": SEED, "classes": classes, "num_samples": samples.count,
        "extractor": samples.extractor, "reference_digest": reference.moments_digest,
    }  # fmt: skip
    write_json(Path(snakemake.output[0]), content)
