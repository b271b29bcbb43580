"""Labelled images in files: a folder or a zip of class folders, a Hugging Face data set, what REPA's preparation makes.

Images are decoded when they are asked for, turned to RGB and cropped as ADM's preparation does, bit for bit.
"""

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from selftrans.config import FileSource, FolderSource, HuggingFaceSource, RepaSource, ZipSource
from selftrans.runtime.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".gif", ".tif", ".tiff")
LABELS_FILE = "dataset.json"
DIGESTED = 64  # images whose content is part of a data set's digest
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class CorruptImage(UserError):
    """An image that cannot be decoded."""


def adm_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The centre square of an RGB image, (size, size, 3).

    Halved by box averages while its shorter side is at least twice ``size``, resized bicubically so that the side is ``size``,
    cropped: the preparation of guided-diffusion (Dhariwal and Nichol 2021), to the bit.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in 8 bits of red, green and blue; PIL would cut off 16 bits of grey instead of scaling them."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


class ImageFiles:
    """Images by name, decoded and cropped when they are read; any number of threads may read.

    Args:
        settings: where they lie, and what to do about EXIF.
        image_size: side of the squares.
        names: name of every image, in order.
        labels: class of every image.
        class_names: name of every class.
        content: the encoded bytes of an image by its place.
        skipped: names of images to leave out.
    """

    def __init__(
        self,
        settings: FileSource,
        image_size: int,
        names: Sequence[str],
        labels: NDArray[np.int64],
        class_names: Sequence[str],
        content: Callable[[int], bytes],
        skipped: Collection[str] = (),
    ) -> None:
        self._settings, self._size, self._content = settings, image_size, content
        skipped = frozenset(skipped)
        self._indices = np.asarray(
            [index for index, name in enumerate(names) if name not in skipped], np.int64
        )
        self.names: list[str] = [names[index] for index in self._indices]
        self.labels = labels[self._indices]
        self.class_names = tuple(class_names)

    @property
    def digest(self) -> str:
        """SHA-256 of what the images are called, of their classes and of what some of them hold; not of where they lie."""
        digest = hashlib.sha256(listing_digest(self.names, self.labels).encode())
        for index in np.unique(np.linspace(0, len(self.names) - 1, DIGESTED).round().astype(int)):
            digest.update(self._encoded(int(index)))
        return digest.hexdigest()

    def read(self, indices: range | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at these places: (B, H, W, 3).

        Raises:
            CorruptImage: one of them cannot be decoded; names it.
        """
        return np.stack([self._decoded(int(index)) for index in indices])

    def _encoded(self, index: int) -> bytes:
        try:
            return self._content(int(self._indices[index]))
        except zipfile.BadZipFile as error:
            raise self._corrupt(index, error) from None
        except OSError as error:  # a disk that fails is no damaged image
            raise UserError(
                f"{self._settings.path}: {self.names[index]} cannot be read ({error})"
            ) from None

    def _decoded(self, index: int) -> NDArray[np.uint8]:
        content = self._encoded(index)
        try:
            with Image.open(io.BytesIO(content)) as image:
                turned = ImageOps.exif_transpose(image) if self._settings.exif_rotation else image
                return adm_crop(to_rgb(turned), self._size)
        except _DAMAGED as error:
            raise self._corrupt(index, error) from None

    def _corrupt(self, index: int, error: BaseException) -> CorruptImage:
        reason = " ".join(str(error).split())
        return CorruptImage(
            f"{self._settings.path}: {self.names[index]} is no image, or damaged ({reason});"
            " `source.on_error: skip` leaves it out"
        )


class PreparedMoments(ImageFiles):
    """REPA's prepared data: square images, and the moments that its preparation computed of them."""

    def __init__(
        self,
        settings: RepaSource,
        image_size: int,
        listing: "Listing",
        moments: Sequence[Path],
        skipped: Collection[str],
    ) -> None:
        super().__init__(settings, image_size, *listing.parts, skipped)
        self._moments = [moments[index] for index in self._indices]

    @property
    def digest(self) -> str:
        """SHA-256 that covers the moments of some images, too."""
        chosen = range(0, len(self._moments), max(1, len(self._moments) // DIGESTED))
        content = b"".join(self._moments[index].read_bytes() for index in chosen)
        return hashlib.sha256(super().digest.encode() + content).hexdigest()

    def moments(self, indices: range) -> NDArray[np.float32]:
        """Means and standard deviations of the posterior as stored, (B, 2, C, H, W).

        Raises:
            UserError: a file is damaged or of another shape than the first.
        """
        rows = [self._read_moments(self._moments[index]) for index in indices]
        for index, row in zip(indices, rows, strict=True):
            if row.shape != rows[0].shape:
                raise UserError(
                    f"{self._moments[index]}: moments of shape {row.shape}, others have {rows[0].shape}"
                )
        return np.stack(rows)

    @staticmethod
    def _read_moments(path: Path) -> NDArray[np.float32]:
        try:
            stored = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: not an array of moments ({error})") from None
        if stored.ndim != 3 or len(stored) % 2:
            raise UserError(
                f"{path}: moments of shape {stored.shape}, allowed is (2C, H, W): means, then deviations"
            )
        halves: NDArray[np.float32] = stored.astype(np.float32).reshape(2, -1, *stored.shape[1:])
        return halves


class Listing:
    """Names, classes and a way to the bytes of the images of a source.

    Args:
        names: path of every image below the source's root, with slashes, sorted.
        content: the encoded bytes of an image by its place.
        root: for messages.
        labels: class numbers by name, where a file gives them; else the first folder of a path is the class.
    """

    def __init__(
        self,
        names: Sequence[str],
        content: Callable[[int], bytes],
        root: str,
        labels: Mapping[str, int] | None,
    ) -> None:
        if not names:
            raise UserError(f"{root}: holds no image (looked for: {', '.join(SUFFIXES)})")
        self.names, self.content = names, content
        if labels is None:
            folders = [name.split("/")[0] if "/" in name else "" for name in names]
            if "" in folders:
                raise UserError(f"{root}: {names[folders.index('')]} lies in no class folder")
            self.class_names = sorted(set(folders))
            number = {name: index for index, name in enumerate(self.class_names)}
            self.labels = np.asarray([number[folder] for folder in folders], np.int64)
        else:
            if missing := [name for name in names if name not in labels]:
                raise UserError(f"{root}: {missing[0]} has no label in {LABELS_FILE}")
            self.labels = np.asarray([labels[name] for name in names], np.int64)
            self.class_names = [str(label) for label in range(int(self.labels.max()) + 1)]

    @property
    def parts(
        self,
    ) -> tuple[Sequence[str], NDArray[np.int64], Sequence[str], Callable[[int], bytes]]:
        """What ``ImageFiles`` takes."""
        return self.names, self.labels, self.class_names, self.content


def listing_digest(names: Sequence[str], labels: NDArray[np.int64]) -> str:
    """SHA-256 of names and classes."""
    return hashlib.sha256("\0".join(names).encode() + labels.tobytes()).hexdigest()


def open_folder(settings: FolderSource, image_size: int, skipped: Collection[str]) -> ImageFiles:
    """A folder of class folders, or with labels in its ``dataset.json``.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    root = Path(settings.path)
    names = _images_below(root)
    if _labels_beside(root) is None:
        classes = {name.split("/")[0] for name in names}
        folders = (
            folder.name
            for folder in root.iterdir()
            if folder.is_dir() and not folder.name.startswith(".")
        )
        if empty := sorted({*folders} - classes):
            raise UserError(
                f"{root / empty[0]}: a class folder without an image, which would shift all classes behind it"
            )
    listing = Listing(
        names, lambda index: (root / names[index]).read_bytes(), settings.path, _labels_beside(root)
    )
    return ImageFiles(settings, image_size, *listing.parts, skipped)


def open_zip(settings: ZipSource, image_size: int, skipped: Collection[str]) -> ImageFiles:
    """A zip of class folders; folders that all of them lie in are passed over.

    Raises:
        UserError: it is no zip, or holds no image.
    """
    try:
        archive = zipfile.ZipFile(settings.path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{settings.path}: not a zip, or truncated ({error})") from None
    members = sorted(
        name for name in archive.namelist() if _is_image(name) and not name.startswith("__MACOSX/")
    )
    folders = [PurePosixPath(name).parts[:-1] for name in members]
    shared = _shared_folders(folders)
    root = "".join(f"{part}/" for part in shared)
    labels = None
    if f"{root}{LABELS_FILE}" in archive.namelist():
        labels = _parse_labels(
            archive.read(f"{root}{LABELS_FILE}"), f"{settings.path}: {root}{LABELS_FILE}"
        )
    names = [name.removeprefix(root) for name in members]
    listing = Listing(names, lambda index: archive.read(members[index]), settings.path, labels)
    return ImageFiles(settings, image_size, *listing.parts, skipped)


def open_hugging_face(
    settings: HuggingFaceSource, image_size: int, skipped: Collection[str]
) -> ImageFiles:
    """A directory of Hugging Face's ``datasets``.

    Raises:
        UserError: it is none, or has no such split or columns.
    """
    import datasets  # a second that only this source needs

    try:
        loaded = datasets.load_from_disk(settings.path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{settings.path}: not a directory of `datasets` ({str(error).splitlines()[0]})"
        ) from None
    if isinstance(loaded, datasets.DatasetDict):
        if settings.split not in loaded:
            found = repr(settings.split) if settings.split else "none"
            raise UserError(
                f"{settings.path}: source.split is {found} (allowed: {', '.join(map(str, loaded))})"
            )
        loaded = loaded[settings.split]
    for key, column in (
        ("image_column", settings.image_column),
        ("label_column", settings.label_column),
    ):
        if column not in loaded.column_names:
            allowed = ", ".join(loaded.column_names)
            raise UserError(
                f"{settings.path}: source.{key}: {column!r} is no column (allowed: {allowed})"
            )
    if not isinstance(loaded.features[settings.image_column], datasets.Image):
        raise UserError(
            f"{settings.path}: source.image_column: {settings.image_column!r} holds no images"
        )
    given: NDArray[Any] = np.asarray(loaded[settings.label_column][:])
    if given.ndim != 1 or given.dtype.kind not in "iu" or given.min(initial=0) < 0:
        raise UserError(
            f"{settings.path}: source.label_column: {settings.label_column!r} holds no class numbers"
        )
    labels, feature = given.astype(np.int64), loaded.features[settings.label_column]
    class_names = getattr(feature, "names", None) or [
        str(label) for label in range(int(labels.max()) + 1)
    ]
    encoded = loaded.select_columns([settings.image_column]).cast_column(
        settings.image_column, datasets.Image(decode=False)
    )

    def content(index: int) -> bytes:
        row: dict[str, Any] | None = encoded[index][settings.image_column]
        if row is None:
            return b""
        return row["bytes"] if row["bytes"] is not None else Path(row["path"]).read_bytes()

    names = [f"row {index}" for index in range(len(labels))]
    return ImageFiles(settings, image_size, names, labels, class_names, content, skipped)


def open_repa(settings: RepaSource, image_size: int, skipped: Collection[str]) -> PreparedMoments:
    """``images/`` and ``vae-sd/`` of REPA's preparation: the n-th image belongs to the n-th array of moments.

    Raises:
        UserError: a part is absent, or the two differ in number or labels.
    """
    images, arrays = Path(settings.path, "images"), Path(settings.path, "vae-sd")
    labels = _labels_beside(arrays)
    if labels is None:
        raise UserError(f"{arrays / LABELS_FILE}: no such file")
    moments = sorted(name for name in labels if name.endswith(".npy"))
    names, beside = _images_below(images), _labels_beside(images)
    if len(moments) != len(names):
        raise UserError(
            f"{settings.path}: {len(names)} images, but {len(moments)} arrays in {LABELS_FILE}"
        )
    of_images = {image: labels[array] for image, array in zip(names, moments, strict=True)}
    if beside is not None and any(beside.get(name) != label for name, label in of_images.items()):
        raise UserError(f"{settings.path}: the labels of images/ and vae-sd/ differ")
    listing = Listing(
        names, lambda index: (images / names[index]).read_bytes(), str(images), of_images
    )
    return PreparedMoments(
        settings, image_size, listing, [arrays / name for name in moments], skipped
    )


def _images_below(root: Path) -> list[str]:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found: list[str] = []
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):  # class folders may be links
        if (real := os.path.realpath(folder)) in visited:
            folders.clear()
            continue
        visited.add(real)
        found += [
            Path(folder, name).relative_to(root).as_posix() for name in files if _is_image(name)
        ]
    return sorted(found)


def _labels_beside(directory: Path) -> dict[str, int] | None:
    path = directory / LABELS_FILE
    return _parse_labels(path.read_bytes(), str(path)) if path.is_file() else None


def _parse_labels(content: bytes, where: str) -> dict[str, int]:
    """The ``labels`` of EDM's data sets: pairs of name and class, or a mapping."""
    try:
        labels = dict(json.loads(content)["labels"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: holds no `labels` ({error})") from None
    if wrong := [name for name, label in labels.items() if not isinstance(label, int) or label < 0]:
        raise UserError(
            f"{where}: {wrong[0]} has label {labels[wrong[0]]!r}, allowed is a class number"
        )
    return labels


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not PurePosixPath(name).name.startswith(".")


def _shared_folders(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that all images lie in, but for the innermost: that is a class, even if it is the only one."""
    if not folders:
        return ()
    first, last = min(folders), max(folders)
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return first[:shared]
