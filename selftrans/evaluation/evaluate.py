"""Evaluate any images against any reference, outside of a workflow."""

from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selftrans.config import (
    METRIC_EXTRACTORS,
    METRIC_SCORERS,
    DistanceArithmetic,
    ExtractorName,
    Metric,
)
from selftrans.evaluation.cautions import caution_texts
from selftrans.evaluation.compute_statistics import compute_statistics, finish
from selftrans.evaluation.extractors import Extractor, load_extractor
from selftrans.evaluation.images import open_images
from selftrans.evaluation.metrics import measure
from selftrans.evaluation.references import check_published, is_statistics
from selftrans.evaluation.statistics import ImageStatistics, features_path
from selftrans.evaluation.weights import WEIGHT_FILES, fetch_weights
from selftrans.runtime.devices import claim_device
from selftrans.runtime.errors import UserError
from selftrans.runtime.headers import read_metadata


def extractors_of(
    metrics: tuple[Metric, ...], chosen: ExtractorName
) -> dict[ExtractorName, tuple[Metric, ...]]:
    """The metrics that each extractor is needed for; ``chosen`` where a metric allows it."""
    needed: dict[ExtractorName, tuple[Metric, ...]] = {}
    for metric in metrics:
        allowed = METRIC_EXTRACTORS[metric]
        name = chosen if chosen in allowed else allowed[-1]
        needed[name] = (*needed.get(name, ()), metric)
    return needed


def statistics_of(
    path: Path, extractor: Extractor, directory: Path, batch_size: int
) -> ImageStatistics:
    """Statistics of images, or as they were saved; the features of images lie in ``directory``."""
    if is_statistics(path):
        return ImageStatistics.load(path)
    output = directory / f"{path.stem}.npz"
    finish(
        compute_statistics(open_images(path), extractor, features_path(output), batch_size), path
    ).save(output)
    return ImageStatistics.load(output)


def parse_metrics(text: str) -> tuple[Metric, ...]:
    """``fid,is`` as a tuple.

    Raises:
        UserError: a name is unknown, or of a metric that compares pictures with captions.
    """
    allowed = tuple(METRIC_EXTRACTORS)
    for name in (names := text.split(",")):
        if name in METRIC_SCORERS:
            raise UserError(f"--metrics: {name!r} is computed by `selftrans score`")
        if name not in allowed:
            raise UserError(f"--metrics: {name!r} is unknown (allowed: {', '.join(allowed)})")
    return tuple(name for name in allowed if name in names)


def evaluate(
    samples: Path,
    reference: Path,
    *,
    metrics: tuple[Metric, ...] = ("fid", "is"),
    extractor: ExtractorName = "inception",
    weights: Path | None = None,
    dinov2_weights: Path | None = None,
    fetch: bool = False,
    distances: DistanceArithmetic = "fp32",
    batch_size: int = 64,
    gpus: int = 0,
) -> dict[str, Any]:
    """Metrics of images, and what they depend on.

    Args:
        samples, reference: each an ``.npz`` whose ``arr_0`` is uint8, (N, H, W, 3), a folder, a
            data file, a reference batch of the ADM evaluator, or statistics of ours.
        metrics: which.
        extractor: the feature network, where a metric leaves a choice.
        weights: its weights; from the cache, if it is None.
        dinov2_weights: weights for FD-DINOv2; from the cache, if it is None.
        fetch: whether missing weights are downloaded into the cache.
        distances: arithmetic of precision and recall.
        batch_size: images at a time.
        gpus: 1, or 0 for the CPU.

    Raises:
        UserError: the images or weights cannot be used.
    """
    for path in (samples, reference):  # before the first feature is computed
        if not is_statistics(path):
            check_published(path)
            open_images(path)
    device = claim_device(gpus)
    values: dict[Metric, float] = {}
    spreads: dict[Metric, float] = {}
    seen: dict[str, dict[str, Any]] = {}
    cautions: list[str] = []
    for name, wanted in extractors_of(metrics, extractor).items():
        file = dinov2_weights if name == "dinov2" else weights
        if fetch and file is None and name in WEIGHT_FILES:
            file = fetch_weights(WEIGHT_FILES[name])
        network = load_extractor(name, file, device)
        with TemporaryDirectory(prefix="selftrans-") as directory:
            sides = []
            for side, path in (("samples", samples), ("reference", reference)):
                (Path(directory) / side).mkdir()
                sides.append(statistics_of(path, network, Path(directory) / side, batch_size))
            measured = measure(wanted, sides[0], sides[1], distances, gpus)
            values |= measured.values
            spreads |= measured.spreads
            seen[name] = {
                "digest": sides[0].digest,
                "num_samples": sides[0].count,
                "num_reference": sides[1].count,
                "num_features": sides[0].num_features,
            }
            row = {**seen[name], "moments": sides[1].moments}
            if name == "classifier" and file is not None:
                row["extractor_accuracy"] = read_metadata(file, name).get("held_out_accuracy")
            cautions += caution_texts([row], wanted)
    return {
        "metrics": {metric: values[metric] for metric in metrics},
        "spreads": spreads,
        "cautions": cautions,
        "extractors": seen,
        "samples": str(samples),
        "reference": str(reference),
        "distances": distances,
        "versions": {
            name: version(name) for name in ("selftrans", "numpy", "scipy", "torch", "torchvision")
        },
    }
