"""References of samples: the ADM evaluator's batches, any images, or statistics of ours."""

import zipfile
from itertools import chain
from pathlib import Path

import numpy as np

from selftrans.evaluation.statistics import Gaussian
from selftrans.evaluation.weights import PublishedFile, check_file
from selftrans.runtime.arrays import read_arrays
from selftrans.runtime.errors import UserError

IMAGENET_256 = PublishedFile(
    url="https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"
    "VIRTUAL_imagenet256_labeled.npz",
    bytes=2_037_122_530,
    sha256="b32732719497e42660a9affb4a966068cba0855ac449b82015e34ec376d20758",
)
REFERENCE_BATCHES = {IMAGENET_256.name: IMAGENET_256}
"""By name; that of ImageNet 512 is VIRTUAL_imagenet512.npz beside it, in the folder 512."""
_MOMENTS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


def members(path: Path) -> set[str]:
    """Names of the arrays in an ``.npz``; empty for another file."""
    if not path.is_file():
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()


def is_statistics(path: Path) -> bool:
    """Whether the file holds statistics of ours."""
    return {"extractor", "digest", "features_mean"} <= members(path)


def check_published(path: Path) -> None:
    """Refuse a file that has a published reference's name and is another.

    Raises:
        UserError: its size or digest differs.
    """
    if path.name in REFERENCE_BATCHES and path.is_file():
        check_file(path, REFERENCE_BATCHES[path.name], str(path))


def published_moments(path: Path, count: int) -> dict[str, Gaussian]:
    """Moments of Inception features in an ADM reference batch.

    ``mu``, ``sigma``, ``mu_s`` and ``sigma_s``. They are of the whole training set; the images
    beside them are ``count`` of it. Only these arrays are read.

    Raises:
        UserError: an array is damaged or has another shape.
    """
    arrays = read_arrays(path, *chain.from_iterable(_MOMENTS.values()))
    moments: dict[str, Gaussian] = {}
    for kind, (mean_name, covariance_name) in _MOMENTS.items():
        if not {mean_name, covariance_name} <= arrays.keys():
            continue
        mean, covariance = (
            arrays[name].astype(np.float64) for name in (mean_name, covariance_name)
        )
        if covariance.shape != (len(mean), len(mean)):
            raise UserError(
                f"{path}: {covariance_name} is {covariance.shape},"
                f" {mean_name} has {len(mean)} elements"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise UserError(f"{path}: {mean_name} or {covariance_name} is not finite")
        moments[kind] = Gaussian(count, mean, covariance)
    return moments
