"""Stores of a data set: arrays with one row for each image, in memory-mapped shards, and a manifest.

The latent store holds ``manifest.json``, ``labels.npy`` (N,) int64 and shards ``moments-00000.npy`` (n, 2, C, H, W): means and
standard deviations of the autoencoder's posterior. Training draws a fresh posterior sample at every visit and scales it.
The feature store of an encoder holds ``manifest.json`` and shards ``features-00000.npy`` (n, T, D): patch tokens of the clean
images. Training reads nothing else.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path, read_json, sha256_of, write_json


class Shard(BaseModel):
    """One file of moments."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str
    count: int
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
    shards: tuple[Shard, ...]
    origin: dict[str, Any]
    """The data definition and the autoencoder's digest."""

    @property
    def num_classes(self) -> int:
        """Number of classes K; the null class is K."""
        return len(self.class_names)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the latents a training sees."""
        content = [self.latent_shape, self.scale, self.shift, self.labels_sha256, [s.sha256 for s in self.shards]]
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
    width: int
    """Length D of a token."""
    dtype: Literal["float16"] = "float16"
    shards: tuple[Shard, ...]
    origin: dict[str, Any]
    """The images and the encoder's digest."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the features a training sees."""
        content = [self.grid_size, self.width, [shard.sha256 for shard in self.shards]]
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
        raise UserError(f"{path}: not a {name} store's manifest ({where}: {problem['msg']})") from None


class Rows:
    """The rows of a store, read from its shards.

    Args:
        directory: where the shards lie.
        shards: what they are.

    Raises:
        UserError: a shard is absent or of another size than recorded.
    """

    def __init__(self, directory: Path, shards: tuple[Shard, ...]) -> None:
        self.directory, self.shards = directory, shards
        for shard in shards:
            path = directory / shard.file
            found = path.stat().st_size if path.is_file() else None
            if found != shard.bytes:
                raise UserError(f"{path}: {found or 'no'} bytes, the manifest says {shard.bytes}")
        # Plain views of the maps: numpy's own class for them makes every access several times as slow.
        self._maps = [
            np.load(directory / shard.file, mmap_mode="r", allow_pickle=False).view(np.ndarray) for shard in shards
        ]
        self._starts = np.cumsum([0, *(shard.count for shard in shards)])

    def __getitem__(self, indices_B: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """The rows of these images, in the stored precision."""
        shards = np.searchsorted(self._starts, indices_B, side="right") - 1
        places = indices_B - self._starts[shards]
        rows = np.empty((len(indices_B), *self._maps[0].shape[1:]), self._maps[0].dtype)
        # One copy for each row, straight from the map: gathering shard by shard would copy everything twice.
        for target, shard, place in zip(rows, shards.tolist(), places.tolist(), strict=True):
            target[...] = self._maps[shard][place]
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
        self.rows = Rows(self.directory, self.manifest.shards)
        self.labels: NDArray[np.int64] = self._read_labels(self.directory / "labels.npy")

    def _read_labels(self, path: Path) -> NDArray[np.int64]:
        try:
            labels = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not an array of labels ({error})") from None
        if labels.shape != (self.manifest.count,) or labels.dtype != np.int64:
            raise UserError(f"{path}: {labels.dtype} of shape {labels.shape}, expected int64 ({self.manifest.count},)")
        return labels

    def __len__(self) -> int:
        return self.manifest.count

    def moments(self, indices_B: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Means and standard deviations of the posterior, (B, 2, C, H, W), unscaled and in the stored precision."""
        return self.rows[indices_B]

    def latents(self, indices_B: NDArray[np.int64], noise_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled posterior samples (mean + std * noise - shift) * scale, (B, C, H, W)."""
        # torch converts half precision several times as fast as numpy; every other operation rounds alike in both.
        mean, std = torch.from_numpy(self.moments(indices_B)).float().unbind(1)
        sample = std.mul_(torch.from_numpy(noise_BCHW)).add_(mean).sub_(self.manifest.shift).mul_(self.manifest.scale)
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
        self.rows = Rows(self.path.parent, self.manifest.shards)

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
    def width(self) -> int:
        """Length of a token."""
        return self.manifest.width

    def __len__(self) -> int:
        return self.manifest.count

    def check_fits(self, latents: LatentStore) -> None:
        """Refuse features of other images than the latents'.

        Raises:
            UserError: naming both.
        """
        own, other = (origin.get("data", {}) for origin in (self.manifest.origin, latents.manifest.origin))
        if len(self) != len(latents) or any(own.get(key) != other.get(key) for key in ("source", "image_size")):
            raise UserError(f"{self.path}: features of other images than {latents.directory}")


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
        self, directory: Path, origin: dict[str, Any], count: int, shard_size: int, content: str = "moments"
    ) -> None:
        self.directory, self.origin, self.count, self.shard_size = directory, origin, count, shard_size
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
        return bool(written["fingerprint"] == self._fingerprint and written["bytes"] == path.stat().st_size)

    def write(self, number: int, rows: NDArray[np.floating[Any]]) -> None:
        """Write one shard, a row for each image."""
        with self.shard(number, len(rows), rows.shape[1:], rows.dtype) as written:
            written[...] = rows

    @contextmanager
    def shard(
        self, number: int, count: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Iterator[NDArray[np.floating[Any]]]:
        """Yield the rows of one shard to be filled in, on the disk and not in memory."""
        path = self._path(number)
        with atomic_path(path) as temporary:
            rows = np.lib.format.open_memmap(temporary, "w+", dtype, (count, *shape))
            yield rows
            rows.flush()
            del rows
        shard = Shard(file=path.name, count=count, bytes=path.stat().st_size, sha256=sha256_of(path))
        write_json(self._record(number), {"fingerprint": self._fingerprint, **shard.model_dump()})

    def read(self, number: int) -> NDArray[np.floating[Any]]:
        """A shard that is there, memory-mapped."""
        return np.load(self._path(number), mmap_mode="r", allow_pickle=False)

    def finish(self, labels: NDArray[np.int64], **facts: Any) -> Manifest:
        """Write labels and manifest of a latent store; ``facts`` are the manifest's other fields."""
        labels_path = self.directory / "labels.npy"
        with atomic_path(labels_path) as temporary:
            np.save(temporary, labels, allow_pickle=False)
        return self.write_manifest(Manifest, labels_sha256=sha256_of(labels_path), **facts)

    def write_manifest(self, kind: type[AnyManifest], **facts: Any) -> AnyManifest:
        """Write the manifest over the shards that are there. Older, longer stores leave nothing."""
        records = [read_json(self._record(number)) for number, _, _ in self.ranges()]
        shards = tuple(Shard(**{key: record[key] for key in Shard.model_fields}) for record in records)
        manifest = kind(count=self.count, shards=shards, origin=self.origin, **facts)
        current = {shard.file for shard in shards}
        for stale in self.directory.glob(f"{self.content}-*.npy"):
            if stale.name not in current:
                stale.with_suffix(".json").unlink(missing_ok=True)
                stale.unlink()
        write_json(self.directory / "manifest.json", manifest.model_dump())
        return manifest

    def _path(self, number: int) -> Path:
        return self.directory / f"{self.content}-{number:05}.npy"

    def _record(self, number: int) -> Path:
        return self._path(number).with_suffix(".json")
