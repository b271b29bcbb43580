"""Image archives of the ADM evaluator: an ``.npz`` whose ``arr_0`` is uint8, (N, H, W, 3)."""

import io
import math
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from selftrans.data.image_paths import check_size
from selftrans.runtime.arrays import damage_of, read_arrays, read_npy_header, write_npy_header
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path, file_identity, opened


def write_image_archive(
    path: Path, batches: Iterable[NDArray[np.uint8]], labels_N: NDArray[np.int64]
) -> None:
    """Write images as ``arr_0`` and labels as ``arr_1``.

    The images come in batches (B, H, W, 3), one in memory at a time.
    """
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        members: tuple[tuple[str, Iterator[NDArray[Any]]], ...] = (
            ("arr_0", iter(batches)),
            ("arr_1", iter([labels_N])),
        )
        for name, arrays in members:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                first = next(arrays)
                write_npy_header(member, first.dtype, (len(labels_N), *first.shape[1:]))
                for array in chain([first], arrays):
                    member.write(np.ascontiguousarray(array).data)


def read_image_archive(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images (N, H, W, 3) and labels (N,) of a small archive.

    Raises:
        UserError: the file is absent, damaged, or another thing.
    """
    arrays = read_arrays(path, "arr_0", "arr_1")
    images, labels = arrays.get("arr_0"), arrays.get("arr_1")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"{path}: holds no images (allowed: arr_0 in uint8, (N, H, W, 3))")
    if labels is None or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise UserError(f"{path}: holds no labels of its images (allowed: arr_1 in int64, (N,))")
    return images, labels


class ImageArchive:
    """The images of an archive, never all of them in memory.

    Args:
        path: an ``.npz``, compressed or not.

    Raises:
        UserError: the file is absent, truncated, ``arr_0`` is not uint8 of shape (N, H, W, 3), or
            an image is too large to be one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as (member, size):
            self.shape, fortran_order, dtype = read_npy_header(member)
            content = size - member.tell()
        if dtype != np.uint8 or len(self.shape) != 4 or self.shape[3] != 3 or fortran_order:
            raise UserError(
                f"{path}: arr_0 is {dtype} of shape {self.shape},"
                " allowed is uint8 of shape (N, H, W, 3)"
            )
        check_size(f"{path}: an image", math.prod(self.shape[1:]))
        if math.prod(self.shape) != content or min(self.shape[1:]) < 1:
            raise UserError(f"{path}: damaged, arr_0 of shape {self.shape} in {content:,} bytes")

    @property
    def identity(self) -> str:
        """Name, size and time of the file."""
        return file_identity(self.path)

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, span: range, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """The images of ``span`` in order, (at most ``batch_size``, H, W, 3).

        Raises:
            UserError: the archive is truncated or damaged.
        """
        image_bytes = math.prod(self.shape[1:])
        with self._open() as (member, _):
            read_npy_header(member)
            member.seek(span.start * image_bytes, io.SEEK_CUR)
            for start in range(span.start, span.stop, batch_size):
                count = min(batch_size, span.stop - start)
                content = member.read(count * image_bytes)
                if len(content) != count * image_bytes:
                    raise UserError(
                        f"{self.path}: arr_0 ends before image {start + count} of {len(self)}"
                    )
                yield np.frombuffer(content, np.uint8).reshape(count, *self.shape[1:])

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], int]]:
        """The array as a file, and its size."""
        with (
            opened(self.path) as file,
            damage_of(self.path, "an .npz with arr_0"),
            zipfile.ZipFile(file) as archive,
            archive.open("arr_0.npy") as member,
        ):
            yield member, archive.getinfo("arr_0.npy").file_size
