"""Statistics and metrics of arrays in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from selftrans.config import METRIC_EXTRACTORS, DistanceArithmetic, ExtractorName, Metric
from selftrans.evaluation.arrays import statistics_of_features, statistics_of_images
from selftrans.evaluation.extractors import Extractor
from selftrans.evaluation.metrics import compute_metrics
from selftrans.evaluation.statistics import ImageStatistics
from selftrans.runtime.errors import UserError, shortened


def image_statistics(images: Any, extractor: Extractor, batch_size: int = 64) -> ImageStatistics:
    """Statistics of images under a feature network.

    Args:
        images: array or tensor in uint8, (N, H, W, 3).
        extractor: see ``load_extractor``, and ``TrainedRun.extractor``.
        batch_size: images at a time.

    Raises:
        UserError: they are other arrays, or fewer than two.
    """
    return statistics_of_images(np.asarray(images), extractor, batch_size)


def feature_statistics(
    features: Any,
    logits: Any = None,
    *,
    extractor: ExtractorName = "classifier",
    digest: str = "",
) -> ImageStatistics:
    """Statistics of features that any network computed.

    Args:
        features: array or tensor, (N, d).
        logits: of classes, (N, K), for ``is``.
        extractor: the kind of network, which decides what metrics are defined: ``classifier`` for
            one of your own.
        digest: what is compared before two sets are.

    Raises:
        UserError: they are other arrays, not finite, or fewer than two.
    """
    classes = None if logits is None else np.asarray(logits)
    return statistics_of_features(np.asarray(features), classes, extractor, digest)


def metrics(
    names: str | Sequence[str],
    samples: ImageStatistics,
    reference: ImageStatistics,
    distances: DistanceArithmetic = "fp32",
) -> dict[Metric, float]:
    """Each metric's value, by name.

    Args:
        names: one or several of ``fid``, ``sfid``, ``is``, ``precision``, ``recall``, ``kid`` and
            ``fd-dinov2``.
        samples: statistics of what is measured.
        reference: statistics by the same network of what it is measured against.
        distances: arithmetic of precision and recall.

    Raises:
        UserError: a metric is unknown, with the known; or the two sets do not allow it.
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    known = tuple(METRIC_EXTRACTORS)
    for name in wanted:
        if name not in known:
            shown = shortened(repr(name))
            raise UserError(f"metric {shown} is unknown (known: {', '.join(known)})")
    if "is" in wanted and not samples.scores:
        raise UserError("is: needs logits, the statistics of the samples have none")
    chosen = tuple(name for name in known if name in wanted)
    return compute_metrics(chosen, samples, reference, distances)
