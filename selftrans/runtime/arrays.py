"""Arrays on disk: numpy's ``.npy`` and ``.npz``, read without unpickling and within bounds."""

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from selftrans.runtime.errors import UserError, shortened
from selftrans.runtime.files import opened

MAX_BYTES = 2**31
"""Of all arrays that are read from one ``.npz``: statistics of Inception features have 0.1 GB."""
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    ValueError,
    EOFError,
    OSError,
    SyntaxError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    TypeError,
    tokenize.TokenError,
)
"""What numpy, zipfile and zlib raise of a damaged, encrypted or foreign file."""

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, whether in Fortran's order, and type."""


def write_npy_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Begin an ``.npy`` whose content follows in pieces."""
    npy.write_array_header_1_0(
        file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )


def read_npy_header(file: Any) -> Header:
    """The header of an ``.npy``; then comes its content."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(file)


def read_array(path: Path) -> NDArray[Any]:
    """Read an ``.npy``.

    Raises:
        Unavailable: the file is absent, or cannot be read.
        UserError: it is truncated, or holds no array.
    """
    with opened(path) as file, damage_of(path, "an array"):
        return _read(file, os.fstat(file.fileno()).st_size)


def map_array(path: Path) -> NDArray[Any]:
    """Map an ``.npy`` into memory: what is not used is not read.

    Raises:
        Unavailable: the file is absent, or cannot be read.
        UserError: it is truncated, or holds no array.
    """
    with opened(path), damage_of(path, "an array"):
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def read_arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz``: all of them, or those of these names that it has.

    Raises:
        Unavailable: the file is absent, or cannot be read.
        UserError: it is truncated or another thing, or its arrays unpack to more than 2 GiB.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with (
        opened(path) as file,
        damage_of(path, "an .npz of arrays"),
        zipfile.ZipFile(file) as archive,
    ):
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        wanted = [name for name in names or members if name in members]
        if (size := sum(members[name].file_size for name in wanted)) > MAX_BYTES:
            raise UserError(f"{path}: unpacks to {size:,} bytes, allowed are {MAX_BYTES:,}")
        for name in wanted:
            with archive.open(members[name]) as member:
                arrays[name] = _read(member, members[name].file_size)
    return arrays


def _read(file: Any, size: int) -> NDArray[Any]:
    """The array of an opened ``.npy`` of ``size`` bytes; its header cannot ask for more."""
    shape, fortran_order, dtype = read_npy_header(file)
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"shape {shape}")
    expected, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if dtype.hasobject or expected != found:
        raise ValueError(f"{dtype} of shape {shape} in {found} bytes")
    array = np.frombuffer(bytearray(file.read(expected)), dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")


@contextmanager
def damage_of(path: Path, kind: str) -> Iterator[None]:
    """Say of whatever numpy and zipfile raise within, in one line, that a file is damaged.

    Raises:
        UserError: naming ``path``.
    """
    try:
        yield
    except _DAMAGE as error:
        reason = shortened(str(error), 200) or type(error).__name__
        raise UserError(f"{path}: not {kind}, or truncated ({reason})") from None
