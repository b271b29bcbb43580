"""Metrics of finished statistics; those without features need no torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from selftrans.config import METRIC_EXTRACTORS, DistanceArithmetic, Metric
from selftrans.evaluation.statistics import Gaussian, ImageStatistics
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000


class Measured(NamedTuple):
    """Metrics of one set of samples."""

    values: dict[Metric, float]
    """Each metric's value, by name."""
    spreads: dict[Metric, float]
    """Standard deviations of the estimates that a value is the mean of: KID's of its subsets."""


def frechet_distance(
    mean1: NDArray[np.float64],
    cov1: NDArray[np.float64],
    mean2: NDArray[np.float64],
    cov2: NDArray[np.float64],
) -> float:
    """|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)) (Heusel et al. 2017, equation 6).

    The last trace is the sum of square roots of the eigenvalues of the symmetric R^T S2 R, where
    S1 = R R^T from S1's eigenvectors. Eigenvalues below the rounding error are dropped, so
    rank-deficient covariances are right. Equal sets may come out below zero by as much: that is 0.
    """
    values, vectors = eigh(cov1, driver="evd")
    rounding = len(values) * np.finfo(np.float64).eps
    kept = values > values[-1] * rounding
    root = vectors[:, kept] * np.sqrt(values[kept])
    middle = (
        eigh(root.T @ cov2 @ root, eigvals_only=True, driver="evd") if kept.any() else np.zeros(1)
    )
    middle = middle[middle > middle[-1] * rounding]
    difference = mean1 - mean2
    squared = difference @ difference + np.trace(cov1) + np.trace(cov2) - 2 * np.sqrt(middle).sum()
    return float(np.maximum(squared, 0))  # which keeps a NaN


def gaussian_distance(samples: Gaussian, reference: Gaussian, name: str) -> float:
    """Fréchet distance of two sets of features; warns of fewer images than features."""
    if samples.mean.shape != reference.mean.shape:
        raise UserError(
            f"{name}: samples have {len(samples.mean)} features,"
            f" the reference {len(reference.mean)}"
        )
    for what, gaussian in (("samples", samples), ("reference images", reference)):
        if gaussian.count < len(gaussian.mean):
            LOG.warning(
                "%s of %d %s with %d features is strongly biased",
                name,
                gaussian.count,
                what,
                len(gaussian.mean),
            )
    return frechet_distance(samples.mean, samples.covariance, reference.mean, reference.covariance)


def inception_score(samples: ImageStatistics) -> float:
    """exp(E KL(p(y|x) || p(y))), the mean over chunks of 5000 images (Salimans et al. 2016).

    Raises:
        UserError: the images are sorted by class, so that no chunk has all of them.
    """
    if len(samples.scores) > 1 and samples.sorted_by_class:
        raise UserError(
            "is: the samples are sorted by class, and the Inception score is a mean over chunks of"
            " 5000 in file order: shuffle them"
        )
    scores = []
    for chunk in samples.scores:
        marginal = chunk.probabilities / chunk.count
        positive = marginal[marginal > 0]
        scores.append(
            np.exp(chunk.negative_entropy / chunk.count - (positive * np.log(positive)).sum())
        )
    return float(np.mean(scores))


def kernel_distances(
    samples_ND: NDArray[np.float32],
    reference_MD: NDArray[np.float32],
    subsets: int = KID_SUBSETS,
    size: int = KID_SUBSET_SIZE,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The unbiased squared MMD of random subsets with the kernel (x.y / d + 1)^3, (subsets,).

    Its mean is the KID (Bińkowski et al. 2018).
    """
    rng = np.random.default_rng(seed)
    size = min(size, len(samples_ND), len(reference_MD))
    estimates = []
    for _ in range(subsets):
        x = np.asarray(
            samples_ND[np.sort(rng.choice(len(samples_ND), size, replace=False))], np.float64
        )
        y = np.asarray(
            reference_MD[np.sort(rng.choice(len(reference_MD), size, replace=False))], np.float64
        )
        within_x, within_y, across = (
            (a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))
        )
        unpaired = sum(
            (kernel.sum() - np.trace(kernel)) / (size * (size - 1))
            for kernel in (within_x, within_y)
        )
        estimates.append(unpaired - 2 * across.mean())
    return np.array(estimates)


def compute_metrics(
    metrics: tuple[Metric, ...],
    samples: ImageStatistics,
    reference: ImageStatistics,
    arithmetic: DistanceArithmetic = "fp32",
    gpus: int = 0,
) -> dict[Metric, float]:
    """Each metric's value, by name; arguments and errors are those of ``measure``."""
    return measure(metrics, samples, reference, arithmetic, gpus).values


def measure(
    metrics: tuple[Metric, ...],
    samples: ImageStatistics,
    reference: ImageStatistics,
    arithmetic: DistanceArithmetic = "fp32",
    gpus: int = 0,
) -> Measured:
    """Each metric's value, and its spread where there is one.

    Args:
        metrics: which ones.
        samples: statistics of the samples.
        reference: statistics of the reference, by the same extractor.
        arithmetic: of the distances of precision and recall.
        gpus: cards for them, 0 or 1.

    Raises:
        UserError: samples and reference do not belong together, lack what a metric needs, or a
            value is not finite.
    """
    if (samples.extractor, samples.digest) != (reference.extractor, reference.digest):
        raise UserError(
            f"samples were seen by extractor {samples.extractor} {samples.digest[:12]},"
            f" the reference by {reference.extractor} {reference.digest[:12]}:"
            " their features cannot be compared"
        )
    if samples.image_size != reference.image_size:
        raise UserError(
            f"samples are {samples.image_size[1]}x{samples.image_size[0]} pixels, reference images"
            f" {reference.image_size[1]}x{reference.image_size[0]}: they cannot be compared"
        )
    values: dict[Metric, float] = {}
    spreads: dict[Metric, float] = {}
    for metric in metrics:
        if samples.extractor not in METRIC_EXTRACTORS[metric]:
            allowed = ", ".join(METRIC_EXTRACTORS[metric])
            raise UserError(
                f"{metric}: cannot be computed from {samples.extractor} features"
                f" (allowed: {allowed})"
            )
        match metric:
            case "fid" | "fd-dinov2":
                values[metric] = gaussian_distance(
                    samples.gaussians["features"], reference.gaussians["features"], metric
                )
            case "sfid":
                values[metric] = gaussian_distance(_spatial(samples), _spatial(reference), metric)
            case "is":
                values[metric] = inception_score(samples)
            case "kid":
                estimates = kernel_distances(
                    _features(samples, "samples"), _features(reference, "reference")
                )
                values[metric] = float(np.mean(estimates))
                spreads[metric] = float(np.std(estimates))
            case "precision" | "recall":
                if metric not in values:
                    pair = _precision_recall(samples, reference, arithmetic, gpus)
                    values |= {name: value for name, value in pair.items() if name in metrics}
    for metric, value in values.items():
        if not np.isfinite(value):
            raise UserError(f"{metric}: is not finite")
    return Measured({metric: values[metric] for metric in metrics}, spreads)


def _precision_recall(
    samples: ImageStatistics, reference: ImageStatistics, arithmetic: DistanceArithmetic, gpus: int
) -> dict[Metric, float]:
    from selftrans.evaluation.manifold import NEIGHBOURS, precision_recall
    from selftrans.runtime.devices import claim_device

    pair = _features(samples, "samples"), _features(reference, "reference")
    if (fewest := min(map(len, pair))) <= NEIGHBOURS:
        raise UserError(
            f"precision: needs more than {NEIGHBOURS} images on both sides, found {fewest}"
        )
    precision, recall = precision_recall(*pair, arithmetic, claim_device(gpus))
    return {"precision": precision, "recall": recall}


def _spatial(statistics: ImageStatistics) -> Gaussian:
    if "spatial" not in statistics.gaussians:
        raise UserError(f"sfid: {statistics.extractor} statistics without spatial features")
    return statistics.gaussians["spatial"]


def _features(statistics: ImageStatistics, whose: str) -> NDArray[np.float32]:
    if statistics.features is None:
        raise UserError(
            f"precision, recall and kid need the features of the {whose}, only their moments exist"
        )
    return statistics.features
