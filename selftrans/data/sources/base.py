"""What image sources share: the protocol, names and classes of files, decoding, ADM's crop.

Images are decoded when they are requested, converted to RGB and cropped as ADM's preparation does,
bit for bit.
"""

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from selftrans.config import FileSource
from selftrans.data.captions import ALL, no_caption
from selftrans.data.image_paths import SUFFIXES, open_image, read_image_file
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG

LABELS_FILE = "dataset.json"
MAX_ASPECT = 100
"""Longer side over shorter: ADM's crop enlarges the shorter one, and the longer one with it."""
MAX_CLASSES = 10**6
DIGESTED = 64  # images whose content is part of a data set's digest
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class CorruptImage(UserError):
    """An image that cannot be decoded, or has no caption."""


class ImageSource(Protocol):
    """Labelled square images in a fixed order."""

    class_names: tuple[str, ...]
    """Name of class k at index k."""
    labels: NDArray[np.int64]
    """Class of every image, (N,)."""
    names: list[str]
    """Name of every image."""
    captions: Sequence[tuple[str, ...]] | None
    """Captions of every image; None where the source has none. An image without a caption, which
    `on_error: skip` allows, cannot be read."""

    @property
    def digest(self) -> str:
        """SHA-256 of the images' names and classes; not of their location or captions."""
        ...

    def read(self, indices: range | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at these indices: (B, H, W, 3)."""
        ...


def adm_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The centre square of an RGB image, (size, size, 3).

    Halved by box averages while its shorter side is at least twice ``size``, resized bicubically
    so that the side is ``size``, cropped: the preparation of guided-diffusion (Dhariwal and
    Nichol 2021), to the bit.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]


def lanczos_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The centre square of an RGB image, resized by Lanczos' filter, (size, size, 3).

    The preparation of MS-COCO in U-ViT (datasets.py, ``center_crop``), whose reference statistics
    REPA's and Self-Transcendence's text-to-image part use.
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in 8 bits of red, green and blue.

    PIL would cut off 16 bits of grey instead of scaling them.

    Raises:
        ValueError: its pixels have no range that is known.
    """
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"pixels from {grey.min()} to {grey.max()}, allowed are 16 bits")
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("pixels in floating point, allowed are 8 or 16 bits")
    return image.convert("RGB")


@dataclass(frozen=True)
class Listing:
    """Names, classes and a way to the bytes of the images of a source."""

    names: Sequence[str]
    """Of every image, in order."""
    labels: NDArray[np.int64]
    """Class of every image, (N,)."""
    class_names: Sequence[str]
    content: Callable[[int], bytes]
    """The encoded bytes of an image by its index."""
    captions: Sequence[tuple[str, ...]] | None = None
    """Of every image; an empty tuple for one that `on_error: skip` leaves out."""


def listing_of_files(
    names: Sequence[str],
    content: Callable[[int], bytes],
    root: str,
    labels: Mapping[str, int] | None,
    captions: Sequence[tuple[str, ...]] | None = None,
) -> Listing:
    """The listing of image files.

    Args:
        names: path of every image below the source's root, with slashes, sorted.
        content: the encoded bytes of an image by its index.
        root: for messages.
        labels: class numbers by name; without them, the first folder of a path is the class, or
            there is one class if there are captions.
        captions: of every image.

    Raises:
        UserError: there is no image, or one without a class.
    """
    if not names:
        raise UserError(f"{root}: holds no image (looked for: {', '.join(SUFFIXES)})")
    if labels is None and captions is not None:
        return Listing(names, np.zeros(len(names), np.int64), [ALL], content, captions)
    if labels is None:
        folders = [name.split("/")[0] if "/" in name else "" for name in names]
        if "" in folders:
            raise UserError(f"{root}: {names[folders.index('')]} lies in no class folder")
        class_names = sorted(set(folders))
        number = {name: index for index, name in enumerate(class_names)}
        classes = np.asarray([number[folder] for folder in folders], np.int64)
    else:
        if missing := [name for name in names if name not in labels]:
            raise UserError(f"{root}: {missing[0]} has no label in {LABELS_FILE}")
        classes = np.asarray([labels[name] for name in names], np.int64)
        class_names = [str(label) for label in range(int(classes.max()) + 1)]
    return Listing(names, classes, class_names, content, captions)


def check_class_folders(
    root: str, folders: Collection[str], entries: Sequence[str], names: Sequence[str]
) -> None:
    """Refuse an empty class folder, and say what lies beside the folders.

    Args:
        root: where they are, as it stands before a name in messages.
        folders: of classes.
        entries: all there is, but what every reader passes over.
        names: paths of the images below the root.

    Raises:
        UserError: a class folder has no image.
    """
    beside = [e for e in entries if "/" not in e and e not in folders and e not in names]
    if beside:
        LOG.warning("%s%s lies beside the class folders, passed over", root, beside[0])
    if empty := sorted(set(folders) - {name.split("/")[0] for name in names}):
        raise UserError(
            f"{root}{empty[0]}: a class folder without an image, which would shift all classes"
            " behind it"
        )


class ImageFiles:
    """Images by name, decoded and cropped when they are read; any number of threads may read.

    Args:
        settings: path, and how to treat EXIF.
        image_size: side of the squares.
        listing: names, classes and content.
        skipped: names of images to leave out.
        crop: makes squares of RGB images.
    """

    def __init__(
        self,
        settings: FileSource,
        image_size: int,
        listing: Listing,
        skipped: Collection[str] = (),
        crop: Callable[[Image.Image, int], NDArray[np.uint8]] = adm_crop,
    ) -> None:
        self._settings, self._size, self._content = settings, image_size, listing.content
        self._crop = crop
        skipped = frozenset(skipped)
        self._indices = np.asarray(
            [index for index, name in enumerate(listing.names) if name not in skipped], np.int64
        )
        self.names: list[str] = [listing.names[index] for index in self._indices]
        self.labels = listing.labels[self._indices]
        self.class_names = tuple(listing.class_names)
        self.captions: Sequence[tuple[str, ...]] | None = None
        if listing.captions is not None:
            self.captions = [listing.captions[index] for index in self._indices]

    @property
    def digest(self) -> str:
        """SHA-256 of names, classes and the content of some images; not of their location."""
        digest = hashlib.sha256(listing_digest(self.names, self.labels).encode())
        for index in np.unique(np.linspace(0, len(self.names) - 1, DIGESTED).round().astype(int)):
            try:
                digest.update(self._encoded(int(index)))
            except CorruptImage:  # whoever reads it says so, or leaves it out
                digest.update(b"corrupt")
        return digest.hexdigest()

    def read(self, indices: range | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at these indices: (B, H, W, 3).

        Raises:
            CorruptImage: one of them cannot be decoded; names it.
        """
        return np.stack([self._decoded(int(index)) for index in indices])

    def size_of(self, index: int) -> tuple[int, int]:
        """Width and height of an image as it is stored; nothing but its header is decoded.

        Raises:
            CorruptImage: it is no image.
        """
        try:
            with open_image(self._encoded(index)) as image:
                return image.size
        except DAMAGED as error:
            raise self._corrupt(index, error) from None

    def _encoded(self, index: int) -> bytes:
        try:
            return self._content(int(self._indices[index]))
        except zipfile.BadZipFile as error:
            raise self._corrupt(index, error) from None
        except OSError as error:  # a failing disk is not a damaged image
            raise UserError(
                f"{self._settings.path}: {self.names[index]} cannot be read ({error})"
            ) from None

    def _decoded(self, index: int) -> NDArray[np.uint8]:
        if self.captions is not None and not self.captions[index]:
            raise CorruptImage(no_caption(self._settings.path, self.names[index]))
        content = self._encoded(index)
        try:
            with open_image(content) as image:
                if max(image.size) > MAX_ASPECT * min(image.size):
                    width, height = image.size
                    raise ValueError(f"{width}x{height}: longer than {MAX_ASPECT} times its width")
                turned = ImageOps.exif_transpose(image) if self._settings.exif_rotation else image
                return self._crop(to_rgb(turned), self._size)
        except DAMAGED as error:
            raise self._corrupt(index, error) from None

    def _corrupt(self, index: int, error: BaseException) -> CorruptImage:
        reason = " ".join(str(error).split())
        return CorruptImage(
            f"{self._settings.path}: {self.names[index]} is not an image, or damaged ({reason});"
            " `source.on_error: skip` leaves it out"
        )


def listing_digest(names: Sequence[str], labels: NDArray[np.int64]) -> str:
    """SHA-256 of names and classes."""
    return hashlib.sha256("\0".join(names).encode() + labels.tobytes()).hexdigest()


def labels_beside(directory: Path) -> dict[str, int] | None:
    """Class numbers by name from the labels file of a folder; None without one."""
    path = directory / LABELS_FILE
    return parse_labels(read_image_file(path), str(path)) if path.is_file() else None


def parse_labels(content: bytes, source: str) -> dict[str, int]:
    """The ``labels`` of EDM's data sets: pairs of name and class, or a mapping.

    Raises:
        UserError: naming ``source``.
    """
    try:
        pairs = json.loads(content)["labels"]
        labels = dict(pairs)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{source}: holds no `labels` ({error})") from None
    for name, label in pairs.items() if isinstance(pairs, dict) else pairs:
        if labels[name] != label:
            raise UserError(f"{source}: {name} has two labels, {label!r} and {labels[name]!r}")
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise UserError(
                f"{source}: {name} has label {label!r}, allowed is a class number below"
                f" {MAX_CLASSES:,}"
            )
    return labels
