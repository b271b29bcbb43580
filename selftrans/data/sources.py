"""Image sources: labelled RGB images of one size, as uint8."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selftrans.config import Data, DigitsSource


class ImageSource(Protocol):
    """Labelled square images in a fixed order."""

    class_names: tuple[str, ...]
    """Name of class k at position k."""
    labels: NDArray[np.int64]
    """Class of every image, (N,)."""

    def read(self, indices: range | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at these places: (B, H, W, 3)."""
        ...


class Digits:
    """scikit-learn's handwritten digits (UCI optdigits, test part): 1,797 scans of 8x8 pixels in 17 grey levels."""

    def __init__(self, image_size: int) -> None:
        from sklearn.datasets import load_digits  # 1.4 s that only this source needs

        bunch = load_digits()
        self.class_names = tuple(str(name) for name in bunch.target_names)
        self.labels = bunch.target.astype(np.int64)
        grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        self._images = np.stack([_enlarged(image, image_size) for image in grey])

    def read(self, indices: range | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at these places: (B, H, W, 3)."""
        return np.repeat(self._images[np.asarray(indices), ..., None], 3, axis=-1)


def _enlarged(image_HW: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image_HW).resize((size, size), Image.Resampling.BICUBIC))


def held_out(count: int) -> NDArray[np.bool_]:
    """Every tenth of ``count`` images: what the classifier, a trained encoder and every probe are judged on, and not shown.

    Diffusion models are trained on them as on all others.
    """
    return np.arange(count) % 10 == 0


def open_source(data: Data) -> ImageSource:
    """The image source that a data file names."""
    match data.source:
        case DigitsSource():
            return Digits(data.image_size)
