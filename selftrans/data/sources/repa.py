"""What REPA's preparation makes: square images, and the autoencoder's moments of them."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftrans.config import RepaSource
from selftrans.data.image_paths import images_below, read_image_file
from selftrans.data.sources.base import (
    DIGESTED,
    LABELS_FILE,
    ImageFiles,
    Listing,
    labels_beside,
    listing_of_files,
)
from selftrans.runtime.errors import UserError


class PreparedMoments(ImageFiles):
    """Square images, and the moments that REPA's preparation computed of them.

    Args:
        settings: path of the prepared data.
        image_size: side of the squares.
        listing: names, classes and content of the images.
        moments: a file for each image.
        skipped: names of images to leave out.
    """

    def __init__(
        self,
        settings: RepaSource,
        image_size: int,
        listing: Listing,
        moments: Sequence[Path],
        skipped: Collection[str],
    ) -> None:
        super().__init__(settings, image_size, listing, skipped)
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
        rows = [_read_moments(self._moments[index]) for index in indices]
        for index, row in zip(indices, rows, strict=True):
            if row.shape != rows[0].shape:
                raise UserError(
                    f"{self._moments[index]}: moments of shape {row.shape},"
                    f" others have {rows[0].shape}"
                )
        return np.stack(rows)


def _read_moments(path: Path) -> NDArray[np.float32]:
    try:
        stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not an array of moments ({error})") from None
    if stored.ndim != 3 or len(stored) % 2:
        raise UserError(
            f"{path}: moments of shape {stored.shape},"
            " allowed is (2C, H, W): means, then deviations"
        )
    halves: NDArray[np.float32] = stored.astype(np.float32).reshape(2, -1, *stored.shape[1:])
    return halves


def open_repa(settings: RepaSource, image_size: int, skipped: Collection[str]) -> PreparedMoments:
    """``images/`` and ``vae-sd/``: the n-th image belongs to the n-th array of moments.

    Raises:
        UserError: a part is absent, or the two differ in number or labels.
    """
    images, arrays = Path(settings.path, "images"), Path(settings.path, "vae-sd")
    labels = labels_beside(arrays)
    if labels is None:
        raise UserError(f"{arrays / LABELS_FILE}: no such file")
    moments = sorted(name for name in labels if name.endswith(".npy"))
    names, image_labels = images_below(images), labels_beside(images)
    if len(moments) != len(names):
        raise UserError(
            f"{settings.path}: {len(names)} images, but {len(moments)} arrays in {LABELS_FILE}"
        )
    classes = {image: labels[array] for image, array in zip(names, moments, strict=True)}
    if image_labels is not None and any(
        image_labels.get(name) != label for name, label in classes.items()
    ):
        raise UserError(f"{settings.path}: the labels of images/ and vae-sd/ differ")
    listing = listing_of_files(
        names, lambda index: read_image_file(images / names[index]), str(images), classes
    )
    files = [arrays / name for name in moments]
    return PreparedMoments(settings, image_size, listing, files, skipped)
