"""Stores of a data set: arrays with a row for each image, in a few large shards, and a manifest.

The latent store holds ``manifest.json``, ``labels.npy`` (N,) int64 and shards
``moments-00000.npy`` (n, 2, C, H, W): means and standard deviations of the autoencoder's
posterior. Training draws a fresh posterior sample at every visit and scales it. The feature store
of an encoder holds ``manifest.json`` and shards ``features-00000.npy`` (n, T, D): patch tokens of
the clean images. Training reads nothing else. Where mirrored images are stored, too, the V = 2
views of an image are neighbouring rows.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config.identity import same_images
from selftrans.data.conditions import ClassConditions
from selftrans.data.manifests import FeatureManifest, Manifest, ShardRecord, read_manifest
from selftrans.runtime.arrays import damage_of, read_array, read_npy_header
from selftrans.runtime.errors import Unavailable, UserError
from selftrans.runtime.files import sha256_of
from selftrans.runtime.tensors import over_channels


class Rows:
    """The rows of a store, read from its shards.

    Args:
        directory: of the shards.
        shards: their records.
        count: number of images.
        views: rows of each image.
        row_shape: of one row.
        dtype_name: of its numbers.

    Raises:
        Unavailable: a shard is absent.
        UserError: one is of another size than recorded, or rows are missing.
    """

    def __init__(
        self,
        directory: Path,
        shards: tuple[ShardRecord, ...],
        count: int,
        views: int,
        row_shape: tuple[int, ...],
        dtype_name: str,
    ) -> None:
        self.directory, self.shards, self.views = directory, shards, views
        for shard in shards:
            path = directory / shard.file
            if not path.is_file():
                raise Unavailable(f"{path}: no such file")
            if (size := path.stat().st_size) != shard.bytes:
                raise UserError(f"{path}: {size} bytes, the manifest says {shard.bytes}")
        self._files: list[IO[bytes]] = []
        self._offsets: list[int] = []
        self._shape: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.float16)
        for shard in shards:
            path = directory / shard.file
            file = path.open("rb", buffering=0)
            with damage_of(path, "a shard of rows"):
                shape, _, dtype = read_npy_header(file)
            if (shape, dtype) != ((shard.count, *row_shape), np.dtype(dtype_name)):
                raise UserError(
                    f"{path}: {dtype} of shape {shape},"
                    f" expected {dtype_name} {(shard.count, *row_shape)}"
                )
            self._shape, self._dtype = shape[1:], dtype
            if file.tell() + math.prod(shape) * dtype.itemsize != shard.bytes:
                raise UserError(f"{path}: damaged, its header is not what was written")
            self._files.append(file)
            self._offsets.append(file.tell())
            # Rows are read in random order: what a system reads ahead is of no use.
            if hasattr(os, "posix_fadvise"):  # macOS has none
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._row_bytes = int(np.prod(self._shape)) * self._dtype.itemsize
        self._starts = np.cumsum([0, *(shard.count for shard in shards)])
        if self._starts[-1] != count * views:
            raise UserError(
                f"{directory}: {self._starts[-1]} rows, the manifest says {count} images in"
                f" {views} views"
            )

    def of(
        self, indices_B: NDArray[np.int64], views_B: NDArray[np.int64] | int = 0
    ) -> NDArray[np.floating[Any]]:
        """The rows of these images in these views, in the stored precision."""
        return self[indices_B * self.views + views_B]

    def __getitem__(self, indices_B: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """The rows at these indices, in the stored precision."""
        shards = np.searchsorted(self._starts, indices_B, side="right") - 1
        indices = indices_B - self._starts[shards]
        rows = np.empty((len(indices_B), *self._shape), self._dtype)
        content = rows.view(np.uint8).reshape(len(rows), self._row_bytes)
        # One read for each row, straight into its slot: one request each, unlike a map's pages.
        for target, shard, index in zip(content, shards.tolist(), indices.tolist(), strict=True):
            count = os.preadv(
                self._files[shard].fileno(),
                [target.data],
                self._offsets[shard] + index * self._row_bytes,
            )
            assert count == self._row_bytes
        return rows

    def verify(self) -> None:
        """Read every byte and compare the digests.

        Raises:
            UserError: the first file whose content is not what the manifest says.
        """
        for shard in self.shards:
            check_digest(self.directory / shard.file, shard.sha256)


def check_digest(path: Path, digest: str) -> None:
    """Check that a file has the recorded content.

    Raises:
        UserError: naming it.
    """
    if sha256_of(path) != digest:
        raise UserError(f"{path}: damaged, its SHA-256 is not the manifest's")


class LatentStore:
    """An opened latent store; opening checks manifest and sizes, ``verify`` also the digests.

    Args:
        manifest_path: the store's ``manifest.json``.

    Raises:
        UserError: the manifest or a shard is absent, damaged or of another size than recorded.
    """

    def __init__(self, manifest_path: Path | str) -> None:
        manifest_path = Path(manifest_path)
        self.directory = manifest_path.parent
        self.manifest = read_manifest(manifest_path, Manifest)
        self.rows = Rows(
            self.directory,
            self.manifest.shards,
            self.manifest.count,
            self.manifest.views,
            (2, *self.manifest.latent_shape),
            self.manifest.dtype,
        )
        self.labels: NDArray[np.int64] = self._read_labels(self.directory / "labels.npy")

    def _read_labels(self, path: Path) -> NDArray[np.int64]:
        labels = read_array(path)
        if labels.shape != (self.manifest.count,) or labels.dtype != np.int64:
            raise UserError(
                f"{path}: {labels.dtype} of shape {labels.shape},"
                f" expected int64 ({self.manifest.count},)"
            )
        check_digest(path, self.manifest.labels_sha256)
        if labels.size and not (labels.min() >= 0 and labels.max() < self.manifest.num_classes):
            raise UserError(
                f"{path}: classes {labels.min()} to {labels.max()},"
                f" allowed are 0 to {self.manifest.num_classes - 1}"
            )
        return labels

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def classes(self) -> ClassConditions:
        """The classes as what the images are conditioned on."""
        return ClassConditions(self.labels, self.manifest.num_classes)

    def moments(
        self, indices_B: NDArray[np.int64], views_B: NDArray[np.int64] | int = 0
    ) -> NDArray[np.floating[Any]]:
        """Means and standard deviations of the posterior, (B, 2, C, H, W).

        Unscaled and in the stored precision.
        """
        return self.rows.of(indices_B, views_B)

    def latents(
        self,
        indices_B: NDArray[np.int64],
        noise_BCHW: NDArray[np.float32],
        views_B: NDArray[np.int64] | int = 0,
    ) -> NDArray[np.float32]:
        """Scaled posterior samples (mean + std * noise - shift) * scale, (B, C, H, W)."""
        # torch converts half precision several times as fast as numpy; the rest rounds the same.
        mean, std = torch.from_numpy(self.moments(indices_B, views_B)).float().unbind(1)
        scale, shift = map(over_channels, (self.manifest.scale, self.manifest.shift))
        sample = std.mul_(torch.from_numpy(noise_BCHW)).add_(mean)
        return sample.sub_(shift).mul_(scale).numpy()

    def verify(self) -> None:
        """Read every byte of the rows and compare the digests; opening did so with the labels.

        Raises:
            UserError: the first file whose content is not what the manifest says.
        """
        self.rows.verify()


class FeatureStore:
    """An opened feature store: an encoder's patch tokens of every clean image.

    Args:
        manifest_path: the store's ``manifest.json``.

    Raises:
        UserError: the manifest or a shard is absent, damaged or of another size than recorded.
    """

    def __init__(self, manifest_path: Path | str) -> None:
        self.path = Path(manifest_path)
        self.manifest = read_manifest(self.path, FeatureManifest)
        self.rows = Rows(
            self.path.parent,
            self.manifest.shards,
            self.manifest.count,
            self.manifest.views,
            (self.manifest.grid_size**2, self.manifest.hidden_size),
            self.manifest.dtype,
        )

    @property
    def name(self) -> str:
        """The encoder's name in the data file."""
        return self.manifest.encoder

    @property
    def stand_in(self) -> bool:
        """Whether the encoder was trained here, for want of a published one."""
        return self.manifest.stand_in

    @property
    def grid_size(self) -> int:
        """Tokens per side."""
        return self.manifest.grid_size

    @property
    def hidden_size(self) -> int:
        """Length of a token."""
        return self.manifest.hidden_size

    def __len__(self) -> int:
        return self.manifest.count

    def check_fits(self, latents: LatentStore) -> None:
        """Check that the features are of the latents' images.

        Raises:
            UserError: naming both.
        """
        mine, theirs = (
            origin.get("data", {}) for origin in (self.manifest.origin, latents.manifest.origin)
        )
        same_rows = (len(self), self.manifest.views) == (len(latents), latents.manifest.views)
        if not same_rows or not same_images(mine, theirs):
            raise UserError(f"{self.path}: features of other images than {latents.directory}")
