"""Numbers from saved statistics; nothing here needs torch."""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from selftrans.config import Metric
from selftrans.evaluation.statistics import Statistics
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG


def frechet_distance(
    mean1: NDArray[np.float64], cov1: NDArray[np.float64], mean2: NDArray[np.float64], cov2: NDArray[np.float64]
) -> float:
    """|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)) between two Gaussians (Heusel et al. 2017, equation 6).

    The last trace is the sum of square roots of the eigenvalues of the symmetric R^T S2 R, where S1 = R R^T from S1's
    eigenvectors. Eigenvalues below the rounding error are dropped, so rank-deficient covariances are right.
    """
    values, vectors = eigh(cov1)
    rounding = len(values) * np.finfo(np.float64).eps
    kept = values > values[-1] * rounding
    root = vectors[:, kept] * np.sqrt(values[kept])
    middle = eigh(root.T @ cov2 @ root, eigvals_only=True) if kept.any() else np.zeros(1)
    middle = middle[middle > middle[-1] * rounding]
    difference = mean1 - mean2
    return float(difference @ difference + np.trace(cov1) + np.trace(cov2) - 2 * np.sqrt(middle).sum())


def fid(samples: Statistics, reference: Statistics) -> float:
    """Frechet distance between the features of samples and reference.

    Raises:
        UserError: the two were computed by different extractors.
    """
    if (samples.extractor, samples.extractor_digest) != (reference.extractor, reference.extractor_digest):
        raise UserError(
            f"samples were seen by extractor {samples.extractor} {samples.extractor_digest[:12]}, the reference by"
            f" {reference.extractor} {reference.extractor_digest[:12]}: their features cannot be compared"
        )
    assert samples.moments is not None
    assert reference.moments is not None
    if samples.count < len(samples.moments.total):
        LOG.warning("FID of %d images with %d features is strongly biased", samples.count, len(samples.moments.total))
    return frechet_distance(
        samples.moments.mean(), samples.moments.covariance(), reference.moments.mean(), reference.moments.covariance()
    )


def inception_score(samples: Statistics) -> float:
    """exp(E KL(p(y|x) || p(y))), the mean over consecutive chunks of 5000 images (Salimans et al. 2016)."""
    scores = []
    for chunk in samples.chunks:
        marginal = chunk.probabilities / chunk.count
        positive = marginal[marginal > 0]
        scores.append(np.exp(chunk.negative_entropy / chunk.count - (positive * np.log(positive)).sum()))
    return float(np.mean(scores))


def compute_metrics(metrics: tuple[Metric, ...], samples: Statistics, reference: Statistics) -> dict[str, float]:
    """Each metric's value, by name.

    Raises:
        UserError: samples and reference do not belong together, or a value is not finite.
    """
    values: dict[str, float] = {}
    for metric in metrics:
        values[metric] = fid(samples, reference) if metric == "fid" else inception_score(samples)
        if not np.isfinite(values[metric]):
            raise UserError(f"{metric}: is not finite")
    return values
