"""Image archives in the form of the ADM evaluator: an ``.npz`` whose ``arr_0`` is uint8, (N, H, W, 3)."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path


def write_image_archive(path: Path, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> None:
    """Write images as ``arr_0`` and labels as ``arr_1``, in pieces: a memory map is never read as a whole."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, array in (("arr_0", images_NHWC), ("arr_1", labels_N)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
                npy.write_array_header_1_0(member, header)
                for start in range(0, len(array), 1024):
                    member.write(np.ascontiguousarray(array[start : start + 1024]).data)


def read_image_archive(path: Path, batch_size: int) -> Iterator[NDArray[np.uint8]]:
    """The images of an archive in order, (at most ``batch_size``, H, W, 3), never all of them in memory.

    Raises:
        UserError: the file is absent, truncated, or ``arr_0`` is not uint8 of shape (N, H, W, 3).
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as member:
            shape, fortran_order, dtype = _read_header(member)
            if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran_order:
                raise UserError(f"{path}: arr_0 is {dtype} of shape {shape}, allowed is uint8 of shape (N, H, W, 3)")
            image_bytes = int(np.prod(shape[1:]))
            for start in range(0, shape[0], batch_size):
                count = min(batch_size, shape[0] - start)
                content = member.read(count * image_bytes)
                if len(content) != count * image_bytes:
                    raise UserError(f"{path}: arr_0 ends after {start} of {shape[0]} images")
                yield np.frombuffer(content, np.uint8).reshape(count, *shape[1:])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not an .npz with arr_0, or truncated ({error})") from None


def _read_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(member)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(member)
