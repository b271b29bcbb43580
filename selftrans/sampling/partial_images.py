"""Images of a set in the making: batches on disk, each known by its own digest."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrans.runtime.arrays import read_array
from selftrans.runtime.errors import Unavailable, UserError
from selftrans.runtime.files import atomic_path
from selftrans.runtime.logs import LOG

_NAME = re.compile(r"(\d{8,12})-(\d{8,12})-[0-9a-f]{16}\.npy")


class PartialImages:
    """Batches of images, a file each, whole or absent; any worker resumes where another stopped.

    A file is called ``00000000-00000256-DIGEST.npy``: by its images, and by a digest of the set's
    description and of its content. Whatever is not what its name says is left behind by a killed
    node, or by a process that drew another set: it is drawn again.

    Args:
        directory: of the files.
        description: of the set.
    """

    def __init__(self, directory: Path, description: dict[str, Any]) -> None:
        self.directory = directory
        self._set = json.dumps(description, sort_keys=True).encode()

    def missing(self, span: range, batch_size: int) -> list[range]:
        """The batches of ``span`` that do not exist yet; reads those that do."""
        batches, position = [], span.start
        for start, stop in [
            *((batch.start, batch.stop) for batch, _ in self._sound(span)),
            (span.stop, span.stop),
        ]:
            batches += [
                range(first, min(first + batch_size, start))
                for first in range(position, start, batch_size)
            ]
            position = max(position, stop)
        return batches

    def add(self, indices: range, images_BHWC: NDArray[np.uint8]) -> None:
        """Write a batch."""
        name = f"{indices.start:08}-{indices.stop:08}-{self._digest(images_BHWC)}.npy"
        with atomic_path(self.directory / name) as temporary:
            np.save(temporary, images_BHWC, allow_pickle=False)

    def batches(self, count: int) -> Iterator[NDArray[np.uint8]]:
        """All images in order, a batch at a time.

        Raises:
            Unavailable: a batch is missing or damaged; the next attempt draws it again.
        """
        position = 0
        for batch, images in self._sound(range(count)):
            if batch.start != position:
                break
            position = batch.stop
            yield images
        if position != count:
            raise Unavailable(
                f"{self.directory}: image {position} is missing or damaged;"
                " the same command draws it again"
            )

    def remove(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _sound(self, span: range) -> Iterator[tuple[range, NDArray[np.uint8]]]:
        """The sound batches that overlap ``span`` and not each other, in order."""
        found = {}
        for path in self.directory.glob("*.npy"):
            if match := _NAME.fullmatch(path.name):
                found[range(int(match[1]), int(match[2]))] = path
        position = 0
        for batch in sorted(found, key=lambda batch: (batch.start, -batch.stop)):
            wanted = batch.start < span.stop and batch.stop > span.start
            if not wanted or batch.start < position:
                continue
            if (images := self._read(batch, found[batch])) is not None:
                position = batch.stop
                yield batch, images

    def _read(self, indices: range, path: Path) -> NDArray[np.uint8] | None:
        """What a file's name says; a file that holds anything else is removed."""
        with suppress(UserError):
            images = read_array(path)
            if (
                images.ndim == 4
                and len(images) == len(indices)
                and self._digest(images) == path.stem.split("-")[2]
            ):
                return images
        LOG.warning("%s: damaged, or of another set; drawn again", path)
        with suppress(FileNotFoundError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return None

    def _digest(self, images_BHWC: NDArray[np.uint8]) -> str:
        digest = hashlib.sha256(self._set)
        digest.update(repr((images_BHWC.shape, str(images_BHWC.dtype))).encode())
        digest.update(np.ascontiguousarray(images_BHWC).tobytes())
        return digest.hexdigest()[:16]
