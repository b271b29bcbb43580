"""What REPA's preparation makes: square images, and the autoencoder's moments of them, or these."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrans.config import FileSource, RepaSource
from selftrans.data.image_paths import images_below, read_image_file
from selftrans.data.sources.base import (
    DIGESTED,
    LABELS_FILE,
    ImageFiles,
    Listing,
    labels_beside,
    listing_digest,
    listing_of_files,
)
from selftrans.runtime.arrays import read_array
from selftrans.runtime.errors import UserError

LAYOUTS = {256: ("images", "vae-sd"), 512: ("images-512", "vae-sd-512")}
"""Folders of images and of moments; those of 256 may hold any size."""


class PreparedMoments(ImageFiles):
    """Square images, and the moments that REPA's preparation computed of them.

    Args:
        settings: path of the prepared data.
        image_size: side of the squares.
        listing: names, classes and content of the images.
        moments: a file for each image.
        skipped: names of images to leave out.
        has_images: else the listing names the moments, and reading an image is an error.
    """

    def __init__(
        self,
        settings: FileSource,
        image_size: int,
        listing: Listing,
        moments: Sequence[Path],
        skipped: Collection[str],
        *,
        has_images: bool = True,
    ) -> None:
        super().__init__(settings, image_size, listing, skipped)
        self.has_images = has_images
        self._moments = [moments[index] for index in self._indices]

    @property
    def digest(self) -> str:
        """SHA-256 that covers the moments of some images, too, or these alone."""
        images = super().digest if self.has_images else listing_digest(self.names, self.labels)
        chosen = range(0, len(self._moments), max(1, len(self._moments) // DIGESTED))
        content = b"".join(read_image_file(self._moments[index]) for index in chosen)
        return hashlib.sha256(images.encode() + content).hexdigest()

    def moments(self, indices: range) -> NDArray[np.float32]:
        """Means and standard deviations of the posterior as stored, (B, 2, C, H, W).

        Raises:
            UserError: a file is damaged or of another shape than the first.
        """
        rows = [self._read(self._moments[index]) for index in indices]
        for index, row in zip(indices, rows, strict=True):
            if row.shape != rows[0].shape:
                raise UserError(
                    f"{self._moments[index]}: moments of shape {row.shape},"
                    f" others have {rows[0].shape}"
                )
        return np.stack(rows)

    def _read(self, path: Path) -> NDArray[np.float32]:
        """Mean and standard deviation of a file, (2, C, H, W)."""
        return halves_of(read_array(path), path)


def halves_of(stored: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """An array (2C, H, W) as means and what lies behind them, (2, C, H, W).

    Raises:
        UserError: it has another shape; names ``path``.
    """
    if stored.ndim != 3 or len(stored) % 2:
        raise UserError(
            f"{path}: moments of shape {stored.shape},"
            " allowed is (2C, H, W): means, then deviations"
        )
    halves: NDArray[np.float32] = stored.astype(np.float32).reshape(2, -1, *stored.shape[1:])
    return halves


def open_repa(settings: RepaSource, image_size: int, skipped: Collection[str]) -> PreparedMoments:
    """The n-th image, if there are images, belongs to the n-th array of moments.

    Raises:
        UserError: a part is absent, or the two differ in number or labels.
    """
    root = Path(settings.path)
    images, arrays = _folders(root, image_size)
    labels = labels_beside(arrays)
    if labels is None:
        raise UserError(f"{arrays / LABELS_FILE}: no such file")
    moments = sorted(name for name in labels if name.endswith(".npy"))
    if not moments:
        raise UserError(f"{arrays / LABELS_FILE}: names no array (looked for: .npy)")
    files = [arrays / name for name in moments]
    if images is None:
        listing = listing_of_files(moments, absent_images(arrays), str(arrays), labels)
        return PreparedMoments(settings, image_size, listing, files, skipped, has_images=False)
    names, image_labels = images_below(images), labels_beside(images)
    if len(moments) != len(names):
        raise UserError(
            f"{settings.path}: {len(names)} images, but {len(moments)} arrays in {LABELS_FILE}"
        )
    classes = {image: labels[array] for image, array in zip(names, moments, strict=True)}
    if image_labels is not None and any(
        image_labels.get(name) != label for name, label in classes.items()
    ):
        raise UserError(f"{settings.path}: the labels of {images.name}/ and {arrays.name}/ differ")
    listing = listing_of_files(
        names, lambda index: read_image_file(images / names[index]), str(images), classes
    )
    return PreparedMoments(settings, image_size, listing, files, skipped)


def _folders(root: Path, image_size: int) -> tuple[Path | None, Path]:
    """The folders of images, None where there is none, and of moments.

    REPA trains on ``images`` and ``vae-sd`` (its dataset.py), Self-Transcendence at 512 pixels on
    ``images-512`` and ``vae-sd-512`` (CustomDataset_512 of its dataset.py), SRA on ``vae-sd`` alone
    at any size. Where both sizes are there, ``image_size`` chooses.

    Raises:
        UserError: images without moments of their size, or neither; says what was found.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found = [name for pair in LAYOUTS.values() for name in pair if (root / name).is_dir()]
    sizes = [size for size, pair in LAYOUTS.items() if not set(pair).isdisjoint(found)]
    if not sizes or any(LAYOUTS[size][1] not in found for size in sizes):
        allowed = ", ".join(f"{moments} with or without {of}" for of, moments in LAYOUTS.values())
        raise UserError(
            f"{root}: holds {' and '.join(found) or 'no prepared data'} (allowed: {allowed})"
        )
    images, moments = LAYOUTS[image_size if image_size in sizes else sizes[0]]
    return root / images if images in found else None, root / moments


def absent_images(arrays: Path) -> Callable[[int], bytes]:
    """The content of images that are not there: reading one is an error."""

    def content(_: int) -> bytes:
        raise UserError(
            f"{arrays.parent}: the source has no images, only their moments in {arrays.name}"
            " (a classifier, an encoder, figures of images, and a reference where `reference` names"
            " none need them)"
        )

    return content
