"""Statistics of images or features that are in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import ExtractorName
from selftrans.evaluation.activations import Activations
from selftrans.evaluation.extractors import Extractor
from selftrans.evaluation.statistics import ImageStatistics, Statistics
from selftrans.runtime.errors import UserError


def statistics_of_images(
    images_NHWC: NDArray[np.uint8], extractor: Extractor, batch_size: int = 64
) -> ImageStatistics:
    """Statistics of images, with their features.

    Raises:
        UserError: they are not uint8 images (N, H, W, 3), or fewer than two.
    """
    _check(images_NHWC, np.uint8, (None, None, None, 3), "images", "uint8 of shape (N, H, W, 3)")
    statistics = Statistics(extractor.name, extractor.digest, images_NHWC.shape[1:3])
    features = [
        statistics.add(start, extractor(torch.from_numpy(images_NHWC[start : start + batch_size])))
        for start in range(0, len(images_NHWC), batch_size)
    ]
    return _finished(statistics, features)


def statistics_of_features(
    features_ND: NDArray[Any],
    logits_NK: NDArray[Any] | None = None,
    extractor: ExtractorName = "classifier",
    digest: str = "",
) -> ImageStatistics:
    """Statistics of features that were computed elsewhere, with the features.

    Raises:
        UserError: they are not floats (N, d), not finite, or fewer than two.
    """
    shown = "floats of shape (N, d)"
    _check(features_ND, np.floating, (None, None), "features", shown)
    if logits_NK is not None:
        _check(logits_NK, np.floating, (len(features_ND), None), "logits", shown)
    statistics = Statistics(extractor, digest)
    activations = Activations(
        features=torch.from_numpy(features_ND),
        logits=None if logits_NK is None else torch.from_numpy(logits_NK),
    )
    rows = [statistics.add(0, activations)] if len(features_ND) else []
    return _finished(statistics, rows)


def _finished(statistics: Statistics, features: list[NDArray[np.float32]]) -> ImageStatistics:
    return dataclasses.replace(statistics.finished(), features=np.concatenate(features))


def _check(
    array: NDArray[Any], kind: Any, shape: tuple[int | None, ...], name: str, allowed: str
) -> None:
    fits = array.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    if not (fits and np.issubdtype(array.dtype, kind)):
        found = f"{array.dtype} of shape {array.shape}"
        raise UserError(f"{name}: are {found} (allowed: {allowed})")
