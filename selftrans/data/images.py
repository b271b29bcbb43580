"""Image archives of the ADM evaluator: an ``.npz`` whose ``arr_0`` is uint8, (N, H, W, 3)."""

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path


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


def write_npy_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Begin an ``.npy`` whose content follows in pieces."""
    npy.write_array_header_1_0(
        file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )


class ImageArchive:
    """The images of an archive, never all of them in memory.

    Args:
        path: an ``.npz``, compressed or not.

    Raises:
        UserError: the file is absent, truncated, or ``arr_0`` is not uint8 of shape (N, H, W, 3).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as member:
            self.shape, fortran_order, dtype = read_npy_header(member)
        if dtype != np.uint8 or len(self.shape) != 4 or self.shape[3] != 3 or fortran_order:
            raise UserError(
                f"{path}: arr_0 is {dtype} of shape {self.shape},"
                " allowed is uint8 of shape (N, H, W, 3)"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, span: range, batch_size: int) -> Iterator[NDArray[np.uint8]]:
        """The images of ``span`` in order, (at most ``batch_size``, H, W, 3).

        Raises:
            UserError: the archive is truncated or damaged.
        """
        image_bytes = int(np.prod(self.shape[1:]))
        with self._open() as member:
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
    def _open(self) -> Iterator[IO[bytes]]:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as member:
                yield member
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file") from None
        except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError) as error:
            raise UserError(
                f"{self.path}: not an .npz with arr_0, or truncated ({error})"
            ) from None


def read_npy_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of an ``.npy``; then comes its content."""
    version = npy.read_magic(member)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(member)
