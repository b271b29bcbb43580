"""Writing a store: shards one by one, in any order and by any process, then the manifest."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from selftrans.data.caption_store import OFFSETS_FILE, TEXTS_FILE
from selftrans.data.manifests import AnyManifest, CaptionManifest, Manifest, ShardRecord
from selftrans.runtime.arrays import map_array, write_npy_header
from selftrans.runtime.errors import Unavailable, UserError
from selftrans.runtime.files import (
    atomic_path,
    read_fields,
    remove_stale_temp_files,
    sha256_of,
    write_json,
)
from selftrans.runtime.logs import LOG
from selftrans.runtime.machine import granted_threads
from selftrans.runtime.seal import sealed, unsealed

Content = Literal["moments", "features", "captions"]


class ShardFile:
    """An ``.npy`` that grows row by row; their number is written at the end.

    Args:
        file: opened for writing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.count = 0
        self.skipped: list[int] = []
        """Indices of images that have no row."""
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
        """Write the number of rows; numpy leaves room for any number in the header."""
        assert self._like is not None
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._start
        self._file.seek(0, io.SEEK_END)

    def _write_header(self) -> None:
        assert self._like is not None
        write_npy_header(self._file, self._like.dtype, (self.count, *self._like.shape[1:]))


class StoreWriter:
    """Writes a store shard by shard; existing shards of the same origin are kept.

    Args:
        directory: of the store.
        origin: what the rows depend on; shards of another origin are written again.
        count: number of images.
        shard_size: images per shard.
        content: what a row is; the shards' names begin with it.
    """

    def __init__(
        self,
        directory: Path,
        origin: dict[str, Any],
        count: int,
        shard_size: int,
        content: Content = "moments",
    ) -> None:
        self.directory, self.origin, self.content = directory, origin, content
        self.count, self.shard_size = count, shard_size
        identity = json.dumps([origin, count, shard_size], sort_keys=True)
        self._fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def record_origin(self) -> None:
        """Write down what the shards are of, before there is a manifest."""
        write_json(self.directory / "origin.json", self.origin)

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Each shard's number and its images from start to stop."""
        for number, start in enumerate(range(0, self.count, self.shard_size)):
            yield number, start, min(start + self.shard_size, self.count)

    def has(self, number: int) -> bool:
        """Whether an earlier attempt of the same origin and shard size finished the shard.

        By its record and size; ``is_sound`` reads it.
        """
        path = self._path(number)
        with suppress(UserError):
            written = self._read_record(number)
            return path.is_file() and (written["fingerprint"], written["bytes"]) == (
                self._fingerprint,
                path.stat().st_size,
            )
        return False

    def is_sound(self, number: int) -> bool:
        """Whether the shard is there, and its content is what was written."""
        if not self.has(number):
            return False
        path = self._path(number)
        if sha256_of(path) == self._read_record(number)["sha256"]:
            return True
        LOG.warning("%s: damaged, its SHA-256 is not what was recorded; made again", path)
        return False

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
        write_json(self._record(number), sealed(record))

    def read(self, number: int) -> NDArray[np.floating[Any]]:
        """A finished shard, memory-mapped."""
        return map_array(self._path(number))

    def skipped(self) -> list[int]:
        """Indices of the images that have no row; all shards must be finished."""
        return [
            index
            for number, _, _ in self.ranges()
            for index in self._read_record(number)["skipped"]
        ]

    def finish(
        self, labels: NDArray[np.int64], names: Sequence[str] = (), **fields: Any
    ) -> Manifest:
        """Write labels and manifest of a latent store.

        Args:
            labels: class of every image, also of those that have no row.
            names: their names, where some may have no row.
            fields: the other fields of the manifest.
        """
        skipped = self.skipped()
        labels_path = self.directory / "labels.npy"
        with atomic_path(labels_path) as temporary:
            np.save(temporary, np.delete(labels, skipped), allow_pickle=False)
        skipped_names = tuple(names[index] for index in skipped)
        return self.write_manifest(
            Manifest, labels_sha256=sha256_of(labels_path), skipped=skipped_names, **fields
        )

    def finish_captions(
        self, texts: Sequence[Sequence[str]], shape: tuple[int, int], **fields: Any
    ) -> CaptionManifest:
        """Write offsets, texts and manifest of a caption store.

        Args:
            texts: the captions of every image.
            shape: of a caption's features, tokens and their length.
            fields: the other fields of the manifest.
        """
        offsets = np.cumsum([1, *map(len, texts)], dtype=np.int64)  # row 0 is the null condition
        offsets_path, texts_path = self.directory / OFFSETS_FILE, self.directory / TEXTS_FILE
        with atomic_path(offsets_path) as temporary, temporary.open("wb") as file:
            np.save(file, offsets, allow_pickle=False)
        write_json(texts_path, [list(captions) for captions in texts])
        length, size = shape
        return self.write_manifest(
            CaptionManifest,
            images=len(texts),
            length=length,
            size=size,
            offsets_sha256=sha256_of(offsets_path),
            texts_sha256=sha256_of(texts_path),
            **fields,
        )

    def write_manifest(self, kind: type[AnyManifest], **fields: Any) -> AnyManifest:
        """Write the manifest over the shards, and delete shards of an older, longer store.

        Raises:
            Unavailable: a shard is missing or damaged; the next attempt makes it again.
        """
        self._require_sound()
        records = [self._read_record(number) for number, _, _ in self.ranges()]
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
        write_json(self.directory / "manifest.json", sealed(manifest.model_dump(mode="json")))
        (self.directory / "origin.json").unlink(missing_ok=True)
        return manifest

    def _require_sound(self) -> None:
        """Read all shards, in threads: hashing releases the interpreter."""
        numbers = [number for number, _, _ in self.ranges()]
        with ThreadPoolExecutor(granted_threads()) as pool:
            for number, sound in zip(numbers, pool.map(self.is_sound, numbers), strict=True):
                if not sound:
                    self._record(number).unlink(missing_ok=True)
                    raise Unavailable(
                        f"{self._path(number)}: missing or damaged; the same command makes it again"
                    )

    def _read_record(self, number: int) -> dict[str, Any]:
        """The record of a finished shard; one that is not what was written does not count."""
        path = self._record(number)
        record = read_fields(path, fingerprint=str, skipped=list, bytes=int, sha256=str)
        return unsealed(record, path, required=True)

    def _path(self, number: int) -> Path:
        return self.directory / f"{self.content}-{number:05}.npy"

    def _record(self, number: int) -> Path:
        return self._path(number).with_suffix(".json")
