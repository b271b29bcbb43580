"""Image sources: labelled RGB images of one size, as uint8."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selftrans.config import (
    DatasetConfig,
    DigitsSource,
    FileSource,
    FolderSource,
    HuggingFaceSource,
    RepaSource,
    ZipSource,
    load_dataset,
)
from selftrans.data.image_files import (
    CorruptImage,
    listing_digest,
    open_folder,
    open_hugging_face,
    open_repa,
    open_zip,
)
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json


class ImageSource(Protocol):
    """Labelled square images in a fixed order."""

    class_names: tuple[str, ...]
    """Name of class k at position k."""
    labels: NDArray[np.int64]
    """Class of every image, (N,)."""
    names: list[str]
    """Name of every image."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the images are called and of their classes, not of where they lie."""
        ...

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
        self.names = [str(index) for index in range(len(self.labels))]
        grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        self._images = np.stack([_enlarged(image, image_size) for image in grey])

    @property
    def digest(self) -> str:
        """SHA-256 of their numbers and classes."""
        return listing_digest(self.names, self.labels)

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


def open_source(data: DatasetConfig, skipped: Collection[str] = ()) -> ImageSource:
    """The image source that a data file names, without the images that extraction left out.

    Raises:
        UserError: it is not there, or holds another number of images than the data file says.
    """
    source = _opened(data, skipped)
    if data.images not in (None, found := len(source.labels) + len(skipped)):
        raise UserError(
            f"data {data.name!r}: images: the source has {found}, the data file says {data.images}"
        )
    return source


def _opened(data: DatasetConfig, skipped: Collection[str]) -> ImageSource:
    match data.source:
        case DigitsSource():
            return Digits(data.image_size)
        case FolderSource():
            return open_folder(data.source, data.image_size, skipped)
        case ZipSource():
            return open_zip(data.source, data.image_size, skipped)
        case HuggingFaceSource():
            return open_hugging_face(data.source, data.image_size, skipped)
        case RepaSource():
            return open_repa(data.source, data.image_size, skipped)


def may_skip(data: DatasetConfig) -> bool:
    """Whether images that cannot be decoded are left out."""
    return isinstance(data.source, FileSource) and data.source.on_error == "skip"


def open_extracted(data_file: Path) -> ImageSource:
    """The images of a data file as its latents, which lie beside it, have them: without those that were left out.

    Raises:
        UserError: images may be left out, and it is not known which.
    """
    data = load_dataset(data_file)
    if not may_skip(data):
        return open_source(data)
    manifest = data_file.parent / "latents/manifest.json"
    if not manifest.is_file():
        raise UserError(
            f"{manifest}: is needed to know what `on_error: skip` left out; extract the latents first"
        )
    return open_source(data, read_json(manifest)["skipped"])


def read_all(data: DatasetConfig) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All images (N, H, W, 3) and their classes (N,) in memory, for what is trained on a small data set.

    Raises:
        CorruptImage: one cannot be decoded, and is not to be left out.
    """
    source = open_source(data)
    images, kept = [], []
    for index in range(len(source.labels)):
        try:
            images.append(source.read(range(index, index + 1))[0])
        except CorruptImage:
            if not may_skip(data):
                raise
            continue
        kept.append(index)
    if not images:
        raise UserError(
            f"data {data.name!r}: none of the {len(source.labels)} images can be decoded"
        )
    return np.stack(images), source.labels[kept]
