"""The caption store: the features of every caption's tokens, encoded once.

It holds ``manifest.json``, shards ``captions-00000.npy`` (n, L, K) in half precision, whose very
first row is the empty caption's, the null condition; ``offsets.npy`` (N + 1,), the row that the
captions of each image begin at; and ``captions.json``, the texts of every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrans.config.identity import same_images
from selftrans.data.manifests import CaptionManifest, read_manifest
from selftrans.data.store import LatentStore, Rows, check_digest
from selftrans.runtime.arrays import read_array
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json

OFFSETS_FILE = "offsets.npy"
TEXTS_FILE = "captions.json"


class CaptionStore:
    """An opened caption store.

    Args:
        manifest_path: the store's ``manifest.json``.

    Raises:
        UserError: the manifest or another file is absent, damaged or not what was recorded.
    """

    def __init__(self, manifest_path: Path | str) -> None:
        self.path = Path(manifest_path)
        self.manifest = read_manifest(self.path, CaptionManifest)
        manifest = self.manifest
        self.rows = Rows(
            self.path.parent, manifest.shards, manifest.count, 1, manifest.shape, manifest.dtype
        )
        self._offsets = self._read_offsets(self.path.with_name(OFFSETS_FILE))

    def _read_offsets(self, path: Path) -> NDArray[np.int64]:
        offsets, manifest = read_array(path), self.manifest
        check_digest(path, manifest.offsets_sha256)
        if (
            offsets.shape != (manifest.images + 1,)
            or offsets.dtype != np.int64
            or (offsets[0], offsets[-1]) != (1, manifest.count)
            or np.diff(offsets).min() < 1
        ):
            raise UserError(f"{path}: not the rows of {manifest.images} images' captions")
        return offsets

    def __len__(self) -> int:
        return self.manifest.images

    @property
    def null(self) -> NDArray[Any]:
        """The features of the empty caption, (1, L, K)."""
        return self.rows[np.zeros(1, np.int64)]

    def span(self, image: int) -> tuple[int, int]:
        """The rows of an image's captions: the first, and the one behind the last."""
        return int(self._offsets[image]), int(self._offsets[image + 1])

    def first_of(self, images_B: NDArray[np.int64]) -> NDArray[Any]:
        """The features of each image's first caption, (B, L, K)."""
        return self.rows[self._offsets[images_B]]

    @cached_property
    def texts(self) -> Sequence[Sequence[str]]:
        """The captions of every image.

        Raises:
            UserError: they are not what was recorded, or not a list of texts for each image.
        """
        path = self.path.with_name(TEXTS_FILE)
        check_digest(path, self.manifest.texts_sha256)
        texts, counts = read_json(path), np.diff(self._offsets).tolist()
        if (
            not isinstance(texts, list)
            or [len(one) if isinstance(one, list) else None for one in texts] != counts
            or not all(isinstance(text, str) for one in texts for text in one)
        ):
            raise UserError(f"{path}: not the captions of {len(self)} images")
        return texts

    def check_fits(self, latents: LatentStore) -> None:
        """Check that the captions are of the latents' images.

        Raises:
            UserError: naming both.
        """
        mine, theirs = (
            origin.get("data", {}) for origin in (self.manifest.origin, latents.manifest.origin)
        )
        if len(self) != len(latents) or not same_images(mine, theirs):
            raise UserError(f"{self.path}: captions of other images than {latents.directory}")

    def verify(self) -> None:
        """Read every byte of the rows and compare the digests; opening did so with the offsets.

        Raises:
            UserError: the first file whose content is not what the manifest says.
        """
        self.rows.verify()
        check_digest(self.path.with_name(TEXTS_FILE), self.manifest.texts_sha256)
