"""What images are conditioned on in training: their class, or one of their captions.

A data set's conditions are rows of a table. An image has one row, its class, or several, its
captions; at every visit of a training one of them is chosen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from selftrans.config import ConditionSize

if TYPE_CHECKING:
    from selftrans.data.caption_store import CaptionStore

Rows: TypeAlias = "NDArray[np.int64]"
Values: TypeAlias = "NDArray[Any]"


class Conditions(ABC):
    """The conditions of a data set's images.

    Attributes:
        size: what a backbone has to take.
        null: the row that means "nothing is said", (1, ...).
    """

    size: ConditionSize
    null: Values

    @abstractmethod
    def choose(self, image: int, rng: np.random.Generator) -> int:
        """The row for one visit to an image; draws only where there is a choice."""

    @abstractmethod
    def of_images(self, images_B: Rows) -> Rows:
        """The row of each image where nothing is drawn, (B,)."""

    @abstractmethod
    def values(self, rows_B: Rows) -> Values:
        """The conditions in these rows, (B, ...)."""

    def dropped(self, values_B: Values, dropped_B: NDArray[np.bool_]) -> Values:
        """The conditions with some replaced by the null condition."""
        mask = dropped_B.reshape(-1, *[1] * (values_B.ndim - 1))
        return np.where(mask, self.null, values_B)


def same_null(first: Values, second: Values) -> bool:
    """Whether two null conditions are one, but for the rounding of features of one text encoder."""
    return first.shape == second.shape and np.allclose(first, second, rtol=1e-2, atol=1e-2)


class ClassConditions(Conditions):
    """Every image has its class, (B,); the null class is K.

    Args:
        labels: class of every image, (N,).
        num_classes: K.
    """

    def __init__(self, labels_N: NDArray[np.int64], num_classes: int) -> None:
        self._labels = labels_N
        self.size, self.null = num_classes, np.array([num_classes], np.int64)

    def choose(self, image: int, rng: np.random.Generator) -> int:
        """The image itself."""
        return image

    def of_images(self, images_B: Rows) -> Rows:
        """The images themselves."""
        return images_B

    def values(self, rows_B: Rows) -> Values:
        """Their classes, (B,)."""
        return self._labels[rows_B]


class CaptionConditions(Conditions):
    """Every image has captions, of which the features of the tokens are stored, (B, L, K).

    Args:
        store: of the captions' features.
    """

    def __init__(self, store: CaptionStore) -> None:
        self._store = store
        self.size, self.null = store.manifest.shape, store.null

    def choose(self, image: int, rng: np.random.Generator) -> int:
        """One of the image's captions, each as likely."""
        start, stop = self._store.span(image)
        return start + int(rng.integers(stop - start))

    def of_images(self, images_B: Rows) -> Rows:
        """The first caption of each image."""
        return np.array([self._store.span(int(image))[0] for image in images_B], np.int64)

    def values(self, rows_B: Rows) -> Values:
        """The features of these captions, (B, L, K), in the stored precision."""
        return self._store.rows[rows_B]
