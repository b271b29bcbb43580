"""Sets of images to measure: an archive, a folder, a data set; read in order, in batches."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from selftrans.data.image_paths import SUFFIXES, images_below, open_image, read_image_file
from selftrans.data.images import ImageArchive
from selftrans.data.sources import open_extracted
from selftrans.data.sources.base import DAMAGED
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import file_identity

MAX_PIXELS = 2**24
"""Of a sample: a small file may unpack to gigabytes."""


class ImageSet(Protocol):
    """uint8 RGB images of one size in a fixed order."""

    @property
    def identity(self) -> str:
        """What changes when the images do: their names, sizes and times, or the set's digest."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batches(self, span: range, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """The images of ``span`` in order: (at most ``batch_size``, H, W, 3)."""
        ...


class ImageFolder:
    """The image files of a folder and its subfolders, in the order of their paths.

    Raises:
        UserError: there are none.
    """

    def __init__(self, directory: Path) -> None:
        self.paths = sorted(directory / name for name in images_below(directory))
        if not self.paths:
            raise UserError(f"{directory}: holds no image (looked for: {', '.join(SUFFIXES)})")

    @property
    def identity(self) -> str:
        """Names, sizes and times of all files, hashed."""
        return hashlib.sha256("\0".join(map(file_identity, self.paths)).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, span: range, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """The images of ``span`` in order.

        Raises:
            UserError: a file is damaged, is not RGB in 8 bits, or has another size than the first.
        """
        shape = self._read(self.paths[0]).shape
        for start in range(span.start, span.stop, batch_size):
            images = [
                self._read(path) for path in self.paths[start : min(start + batch_size, span.stop)]
            ]
            for path, image in zip(self.paths[start:], images, strict=False):
                if image.shape != shape:
                    raise UserError(
                        f"{path}: is {image.shape[1]}x{image.shape[0]},"
                        f" {self.paths[0].name} is {shape[1]}x{shape[0]}"
                    )
            yield np.stack(images)

    def _read(self, path: Path) -> NDArray[np.uint8]:
        try:
            with open_image(read_image_file(path)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{path}: is {image.width}x{image.height}, allowed for samples are"
                        f" {MAX_PIXELS:,} pixels"
                    )
                if image.mode != "RGB":
                    raise UserError(f"{path}: is {image.mode}, allowed is RGB in 8 bits")
                return np.asarray(image)
        except DAMAGED as error:
            raise UserError(f"{path}: not an image, or damaged ({error})") from None


class DataImages:
    """All images of a data file that its latents have rows of."""

    def __init__(self, reference: str) -> None:
        self._source = open_extracted(Path(reference))

    @property
    def identity(self) -> str:
        """The digest of the source."""
        return self._source.digest

    def __len__(self) -> int:
        return len(self._source.labels)

    def batches(self, span: range, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """The images of ``span`` in order."""
        for start in range(span.start, span.stop, batch_size):
            yield self._source.read(range(start, min(start + batch_size, span.stop)))


def open_images(reference: Path) -> ImageSet:
    """An ``.npz`` with ``arr_0``, a folder of image files, or a data file (``.yaml``).

    Raises:
        UserError: it is not one of these, or there are fewer than two images.
    """
    images: ImageSet
    if reference.is_dir():
        images = ImageFolder(reference)
    elif reference.suffix in (".yaml", ".yml"):
        images = DataImages(str(reference))
    else:
        images = ImageArchive(reference)
    if len(images) < 2:
        raise UserError(f"{reference}: statistics need at least 2 images, found {len(images)}")
    return images
