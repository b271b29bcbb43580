"""Stores of a data set: arrays with one row for each image, in a few large shards, and a manifest.

The latent store holds ``manifest.json``, ``labels.npy`` (N,) int64 and shards ``moments-00000.npy`` (n, 2, C, H, W): means and
standard deviations of the autoencoder's posterior. Training draws a fresh posterior sample at every visit and scales it.
The feature store of an encoder holds ``manifest.json`` and shards ``features-00000.npy`` (n, T, D): patch tokens of the clean
images. Training reads nothing else. Where mirrored images are stored, too, an image's V = 2 views are neighbouring rows.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from selftrans.data.images import read_npy_header, write_npy_header
from selftrans.runtime.errors import Unavailable, UserError
from selftrans.runtime.files import (
    atomic_path,
    read_json,
    remove_stale_temp_files,
    sha256_of,
    write_json,
)


class ShardRecord(BaseModel):
    """One file of rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str
    count: int
    """Rows."""
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a store holds and where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    count: int
    class_names: tuple[str, ...]
    latent_shape: tuple[int, int, int]
    """(C, H, W)."""
    image_size: int
    dtype: Literal["float16", "float32"]
    scale: float
    shift: float
    """A latent that the model sees is (posterior sample - shift) * scale."""
    scale_origin: Literal["autoencoder", "measured"]
    labels_sha256: str
    views: int = 1
    """Rows of each image: itself, and mirrored."""
    skipped: tuple[str, ...] = ()
    """Names of images that cannot be decoded and were left out."""
    shards: tuple[ShardRecord, ...]
    origin: dict[str, Any]
    """The data definition, and the digests of the images' listing and of the autoencoder."""

    @property
    def num_classes(self) -> int:
        """Number of classes K; the null class is K."""
        return len(self.class_names)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the latents a training sees."""
        content = [
            self.latent_shape,
            self.scale,
            self.shift,
            self.labels_sha256,
            [s.sha256 for s in self.shards],
        ]
        content += [] if self.views == 1 else [self.views]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class FeatureManifest(BaseModel):
    """What a feature store holds and where it came from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    count: int
    encoder: str
    encoder_digest: str
    stand_in: bool
    """Whether the encoder was trained here, on the data itself, for want of published weights."""
    grid_size: int
    """Tokens per side; T is its square."""
    hidden_size: int
    """Length D of a token."""
    dtype: Literal["float16"] = "float16"
    views: int = 1
    """Rows of each image: itself, and mirrored."""
    shards: tuple[ShardRecord, ...]
    origin: dict[str, Any]
    """The images and the encoder's digest."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the features a training sees."""
        content = [self.grid_size, self.hidden_size, [shard.sha256 for shard in self.shards]]
        content += [] if self.views == 1 else [self.views]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


AnyManifest = TypeVar("AnyManifest", Manifest, FeatureManifest)


def read_manifest(path: Path, kind: type[AnyManifest]) -> AnyManifest:
    """The manifest of a store.

    Raises:
        UserError: it is absent, damaged or of another kind of store.
    """
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        name = "latent" if kind is Manifest else "feature"
        raise UserError(
            f"{path}: not a {name} store's manifest ({where}: {problem['msg']})"
        ) from None


class Rows:
    """The rows of a store, read from its shards.

    Args:
        directory: where the shards lie.
        shards: what they are.
        count: number of images.
        views: rows of each image.

    Raises:
        Unavailable: a shard is absent.
        UserError: one is of another size than recorded, or rows are missing.
    """

    def __init__(
        self, directory: Path, shards: tuple[ShardRecord, ...], count: int, views: int
    ) -> None:
        self.directory, self.shards, self.views = directory, shards, views
        for shard in shards:
            path = directory / shard.file
            if not path.is_file():
                raise Unavailable(f"{path}: no such file")
            if (found := path.stat().st_size) != shard.bytes:
                raise UserError(f"{path}: {found} bytes, the manifest says {shard.bytes}")
        self._files, self._offsets = [], []
        for shard in shards:
            file = (directory / shard.file).open("rb", buffering=0)
            shape, _, self._dtype = read_npy_header(file)
            self._shape = shape[1:]
            self._files.append(file)
            self._offsets.append(file.tell())
            # Rows are wanted in random order: what a system reads ahead (some: megabytes) would be read in vain.
            if hasattr(os, "posix_fadvise"):  # macOS has none
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._row_bytes = int(np.prod(self._shape)) * self._dtype.itemsize
        self._starts = np.cumsum([0, *(shard.count for shard in shards)])
        if self._starts[-1] != count * views:
            raise UserError(
                f"{directory}: {self._starts[-1]} rows, the manifest says {count} images in {views} views"
            )

    def of(
        self, indices_B: NDArray[np.int64], views_B: NDArray[np.int64] | int = 0
    ) -> NDArray[np.floating[Any]]:
        """The rows of these images in these views, in the stored precision."""
        return self[indices_B * self.views + views_B]

    def __getitem__(self, indices_B: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """The rows at these places, in the stored precision."""
        shards = np.searchsorted(self._starts, indices_B, side="right") - 1
        indices = indices_B - self._starts[shards]
        rows = np.empty((len(indices_B), *self._shape), self._dtype)
        content = rows.view(np.uint8).reshape(len(rows), self._row_bytes)
        # One read for each row, straight to where it belongs; unlike a map's, it is one request, whatever the page size.
        for target, shard, index in zip(content, shards.tolist(), indices.tolist(), strict=True):
            found = os.preadv(
                self._files[shard].fileno(),
                [target.data],
                self._offsets[shard] + index * self._row_bytes,
            )
            assert found == self._row_bytes
        return rows

    def verify(self) -> None:
        """Read every byte and compare the digests.

        Raises:
            UserError: the first file whose content is not what the manifest says.
        """
        for shard in self.shards:
            check_digest(self.directory / shard.file, shard.sha256)


def check_digest(path: Path, digest: str) -> None:
    """Refuse a file of other content than recorded.

    Raises:
        UserError: naming it.
    """
    if sha256_of(path) != digest:
        raise UserError(f"{path}: damaged, its SHA-256 is not the manifest's")


class LatentStore:
    """An opened latent store; opening checks the manifest and the sizes, ``verify`` also the digests.

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
            self.directory, self.manifest.shards, self.manifest.count, self.manifest.views
        )
        self.labels: NDArray[np.int64] = self._read_labels(self.directory / "labels.npy")

    def _read_labels(self, path: Path) -> NDArray[np.int64]:
        try:
            labels = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not an array of labels ({error})") from None
        if labels.shape != (self.manifest.count,) or labels.dtype != np.int64:
            raise UserError(
                f"{path}: {labels.dtype} of shape {labels.shape}, expected int64 ({self.manifest.count},)"
            )
        return labels

    def __len__(self) -> int:
        return self.manifest.count

    def moments(
        self, indices_B: NDArray[np.int64], views_B: NDArray[np.int64] | int = 0
    ) -> NDArray[np.floating[Any]]:
        """Means and standard deviations of the posterior, (B, 2, C, H, W), unscaled and in the stored precision."""
        return self.rows.of(indices_B, views_B)

    def latents(
        self,
        indices_B: NDArray[np.int64],
        noise_BCHW: NDArray[np.float32],
        views_B: NDArray[np.int64] | int = 0,
    ) -> NDArray[np.float32]:
        """Scaled posterior samples (mean + std * noise - shift) * scale, (B, C, H, W)."""
        # torch converts half precision several times as fast as numpy; every other operation rounds alike in both.
        mean, std = torch.from_numpy(self.moments(indices_B, views_B)).float().unbind(1)
        sample = (
            std.mul_(torch.from_numpy(noise_BCHW))
            .add_(mean)
            .sub_(self.manifest.shift)
            .mul_(self.manifest.scale)
        )
        return sample.numpy()

    def verify(self) -> None:
        """Read every byte and compare the digests.

        Raises:
            UserError: the first file whose content is not what the manifest says.
        """
        self.rows.verify()
        check_digest(self.directory / "labels.npy", self.manifest.labels_sha256)


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
            self.path.parent, self.manifest.shards, self.manifest.count, self.manifest.views
        )

    @property
    def name(self) -> str:
        """The encoder's name in the data file."""
        return self.manifest.encoder

    @property
    def stand_in(self) -> bool:
        """Whether the encoder stands in for a published one."""
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
        """Refuse features of other images than the latents'.

        Raises:
            UserError: naming both.
        """
        own, other = (
            origin.get("data", {}) for origin in (self.manifest.origin, latents.manifest.origin)
        )
        alike = (len(self), self.manifest.views) == (len(latents), latents.manifest.views)
        if not alike or any(
            own.get(key) != other.get(key) for key in ("source", "image_size", "images")
        ):
            raise UserError(f"{self.path}: features of other images than {latents.directory}")


class ShardFile:
    """An ``.npy`` that grows row by row; how many there are is written at the end.

    Args:
        file: opened for writing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.count = 0
        self.skipped: list[int] = []
        """Places of images that have no row."""
        self._file = file
        self._like: NDArray[np.floating[Any]] | None = None

    def append(self, rows: NDArray[np.floating[Any]]) -> None:
        """Add rows, all of one shape and type."""
        if self._like is None:
            self._like = np.empty((0, *rows.shape[1:]), rows.dtype)
            self._write_header()
            self._start = self._file.tell()
        assert (rows.shape[1:], rows.dtype) == (self._like.shape[1:], self._like.dtype)
        self._file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def close(self) -> None:
        """Say how many rows there are; numpy leaves room for any number in the header."""
        assert self._like is not None
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._start
        self._file.seek(0, io.SEEK_END)

    def _write_header(self) -> None:
        assert self._like is not None
        write_npy_header(self._file, self._like.dtype, (self.count, *self._like.shape[1:]))


class StoreWriter:
    """Writes a store shard by shard; a shard that is there and of the same origin is kept.

    Args:
        directory: where the store lies.
        origin: what the rows are a function of; shards of another origin are written anew.
        count: number of images.
        shard_size: images per shard.
        content: what the shards' names begin with.
    """

    def __init__(
        self,
        directory: Path,
        origin: dict[str, Any],
        count: int,
        shard_size: int,
        content: str = "moments",
    ) -> None:
        self.directory, self.origin, self.count, self.shard_size = (
            directory,
            origin,
            count,
            shard_size,
        )
        self.content = content
        identity = json.dumps([origin, count, shard_size], sort_keys=True)
        self._fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Each shard's number and its images from start to stop."""
        for number, start in enumerate(range(0, self.count, self.shard_size)):
            yield number, start, min(start + self.shard_size, self.count)

    def has(self, number: int) -> bool:
        """Whether shard ``number`` was finished by an earlier attempt of the same origin, cut in the same way."""
        record = self._record(number)
        path = self._path(number)
        if not (record.is_file() and path.is_file()):
            return False
        written = read_json(record)
        return bool(
            written["fingerprint"] == self._fingerprint and written["bytes"] == path.stat().st_size
        )

    def write(self, number: int, rows: NDArray[np.floating[Any]]) -> None:
        """Write one shard, a row for each view of each image."""
        with self.shard(number) as shard:
            shard.append(rows)

    @contextmanager
    def shard(self, number: int) -> Iterator[ShardFile]:
        """Yield one shard to append to."""
        path = self._path(number)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            written = ShardFile(file)
            yield written
            written.close()
        shard = ShardRecord(
            file=path.name, count=written.count, bytes=path.stat().st_size, sha256=sha256_of(path)
        )
        record = {
            "fingerprint": self._fingerprint,
            "skipped": written.skipped,
            **shard.model_dump(),
        }
        write_json(self._record(number), record)

    def read(self, number: int) -> NDArray[np.floating[Any]]:
        """A shard that is there, memory-mapped."""
        return np.load(self._path(number), mmap_mode="r", allow_pickle=False)

    def skipped(self) -> list[int]:
        """Places of the images that have no row, when all shards are there."""
        return [
            index
            for number, _, _ in self.ranges()
            for index in read_json(self._record(number))["skipped"]
        ]

    def finish(
        self, labels: NDArray[np.int64], names: Sequence[str] = (), **fields: Any
    ) -> Manifest:
        """Write labels and manifest of a latent store.

        Args:
            labels: class of every image, also of those that have no row.
            names: their names, where some may have no row.
            facts: the manifest's other fields.
        """
        skipped = self.skipped()
        labels_path = self.directory / "labels.npy"
        with atomic_path(labels_path) as temporary:
            np.save(temporary, np.delete(labels, skipped), allow_pickle=False)
        skipped_names = tuple(names[index] for index in skipped)
        return self.write_manifest(
            Manifest, labels_sha256=sha256_of(labels_path), skipped=skipped_names, **fields
        )

    def write_manifest(self, kind: type[AnyManifest], **fields: Any) -> AnyManifest:
        """Write the manifest over the shards that are there. Older, longer stores leave nothing."""
        records = [read_json(self._record(number)) for number, _, _ in self.ranges()]
        shards = tuple(
            ShardRecord(**{key: record[key] for key in ShardRecord.model_fields})
            for record in records
        )
        count = self.count - sum(len(record["skipped"]) for record in records)
        manifest = kind(count=count, shards=shards, origin=self.origin, **fields)
        current = {shard.file for shard in shards}
        for stale in self.directory.glob(f"{self.content}-*.npy"):
            if stale.name not in current:
                stale.with_suffix(".json").unlink(missing_ok=True)
                stale.unlink()
        remove_stale_temp_files(self.directory)
        write_json(self.directory / "manifest.json", manifest.model_dump())
        return manifest

    def _path(self, number: int) -> Path:
        return self.directory / f"{self.content}-{number:05}.npy"

    def _record(self, number: int) -> Path:
        return self._path(number).with_suffix(".json")
