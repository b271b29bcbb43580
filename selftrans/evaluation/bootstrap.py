"""How far the FID of a set of samples depends on which images were sampled.

The images are resampled with replacement (Efron 1979), from the stored features. A resample repeats
images, so its FID is larger on average; what is used is how far its FIDs lie from their own mean.
The reference stays as it is. Where every class has its share of the samples by construction, images
are resampled within their class: the share of a class is no matter of chance.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrans.evaluation.comparison import CONFIDENCE
from selftrans.evaluation.metrics import frechet_distance
from selftrans.evaluation.statistics import Gaussian, Moments
from selftrans.runtime.random import Stream, generator

BLOCK = 8192
"""Images whose features are in memory at a time."""
SEED = 0
TAILS = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)
"""Quantiles at the ends of an interval."""

Floats = NDArray[np.float64]


def resampled_fids(
    features_ND: NDArray[np.floating[Any]],
    reference: Gaussian,
    resamples: int,
    classes: int = 1,
    seed: int = SEED,
    block: int = BLOCK,
) -> Floats:
    """FIDs of resampled sets, (resamples,); each is a function of the seed and its number.

    Args:
        features_ND: of the samples, in memory or mapped.
        reference: moments of the reference, by the same extractor.
        resamples: how many.
        classes: K, if sample i is of class i mod K by construction; else 1.
        seed: of the resampling.
        block: images at a time.
    """
    count, width = features_ND.shape
    found = np.empty(resamples)
    for number in range(resamples):
        rng = generator(seed, Stream.BOOTSTRAP, number)
        members = [np.arange(label, count, classes) for label in range(min(classes, count))]
        chosen = np.concatenate([own[rng.integers(len(own), size=len(own))] for own in members])
        times_N = np.bincount(chosen, minlength=count)
        moments = Moments.of_width(width)
        for start in range(0, count, block):
            part = slice(start, start + block)
            moments.add(np.repeat(features_ND[part], times_N[part], axis=0))
        own = moments.gaussian()
        found[number] = frechet_distance(
            reference.mean, reference.covariance, own.mean, own.covariance
        )
    return found


def interval_around(value: float, resampled: Floats) -> tuple[float, float]:
    """The 95 % interval of a value, from the spread of its resamples around their mean."""
    low, high = np.quantile(resampled, TAILS) - resampled.mean()
    return value + float(low), value + float(high)
