"""scikit-learn's handwritten digits: data that ships inside a dependency."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selftrans.data.sources.base import listing_digest


class Digits:
    """UCI optdigits, test part: 1,797 scans of 8x8 pixels in 17 grey levels."""

    captions: Sequence[tuple[str, ...]] | None = None

    def __init__(self, image_size: int) -> None:
        from sklearn.datasets import load_digits  # 1.4 s that only this source needs

        bunch = load_digits()
        self.class_names = tuple(str(name) for name in bunch.target_names)
        self.labels = bunch.target.astype(np.int64)
        self.names = [str(index) for index in range(len(self.labels))]
        grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        self._images = np.stack([_enlarged(image, image_size) for image in grey])

    @property
    def digest(self) -> str:
        """SHA-256 of their indices and classes."""
        return listing_digest(self.names, self.labels)

    def read(self, indices: range | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at these indices: (B, H, W, 3)."""
        return np.repeat(self._images[np.asarray(indices), ..., None], 3, axis=-1)


def _enlarged(image_HW: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image_HW).resize((size, size), Image.Resampling.BICUBIC))
