"""The drawn world as a source of images: nothing is read, every picture is drawn when requested."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selftrans.config import ScenesSource
from selftrans.data.scenes.captions import captions_of
from selftrans.data.scenes.picture import paint
from selftrans.data.scenes.world import CLASS_NAMES, Scene, draw
from selftrans.data.sources.base import DIGESTED, listing_digest


class Scenes:
    """Drawn scenes, as a function of (seed, index) each.

    Args:
        settings: which of them.
        image_size: side of the pictures in pixels.
    """

    def __init__(self, settings: ScenesSource, image_size: int) -> None:
        self._size = image_size
        indices = range(settings.first, settings.first + settings.count)
        self._drawings = [draw(settings.seed, index, settings.combinations) for index in indices]
        self.class_names = CLASS_NAMES
        self.names = [f"scene {index}" for index in indices]
        self.scenes: list[Scene] = [drawing.scene for drawing in self._drawings]
        self.labels: NDArray[np.int64] = np.asarray([s.label for s in self.scenes], np.int64)
        self.captions: Sequence[tuple[str, ...]] | None = [captions_of(s) for s in self.scenes]

    @property
    def digest(self) -> str:
        """SHA-256 of names, classes and some pictures: a world drawn otherwise has another one."""
        digest = hashlib.sha256(listing_digest(self.names, self.labels).encode())
        chosen = np.linspace(0, len(self.names) - 1, DIGESTED).round().astype(np.int64)
        digest.update(self.read(np.unique(chosen)).tobytes())
        return digest.hexdigest()

    def read(self, indices: range | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The pictures at these indices: (B, H, W, 3)."""
        return np.stack([paint(self._drawings[int(index)], self._size) for index in indices])
