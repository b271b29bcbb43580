"""Which files of a folder or zip are images, and how one is opened: the same for every reader."""

import io
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from PIL import Image

from selftrans.runtime.errors import UserError

FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".ppm": "PPM",
    ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
"""Formats by suffix. No other is ever opened: PIL would try all it knows by content, and start
Ghostscript for an EPS that is called a PNG."""
SUFFIXES = tuple(FORMATS)
PASSED_OVER = {"__MACOSX", "@eaDir"}
"""Folders that systems leave beside images, as they leave hidden ones."""
MAX_BYTES = 2**28
"""Of the file of one image: ImageNet's largest has 15 MB."""


def is_passed_over(name: str) -> bool:
    """Whether a path below a source's root has a hidden part, or one that a system left there."""
    return any(part.startswith(".") or part in PASSED_OVER for part in PurePosixPath(name).parts)


def is_image(name: str) -> bool:
    """Whether a path below a source's root is that of an image."""
    return name.lower().endswith(SUFFIXES) and not is_passed_over(name)


def images_below(root: Path) -> list[str]:
    """Paths of all image files below a folder, relative to it, with slashes, sorted.

    Raises:
        UserError: there is no such folder, or a name is not one line of UTF-8.
    """
    names = files_below(root, is_image)
    check_names(str(root), names)
    return names


def files_below(root: Path, is_wanted: Callable[[str], bool]) -> list[str]:
    """Paths of files of a kind below a folder, relative to it, with slashes, sorted.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    names: list[str] = []
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):  # class folders may be links
        if (real := os.path.realpath(folder)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not is_passed_over(name)]
        names += [
            Path(folder, name).relative_to(root).as_posix() for name in files if is_wanted(name)
        ]
    return sorted(names)


def check_names(root: str, names: Iterable[str]) -> None:
    """Refuse names that no list of names can hold, and names that stand for two images.

    Raises:
        UserError: naming the first one.
    """
    seen: set[str] = set()
    for name in names:
        if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in name):
            raise UserError(f"{root}: {name!r} is a name that is not UTF-8, or of several lines")
        if name in seen:
            raise UserError(f"{root}: {name!r} is the name of two images")
        seen.add(name)


def read_image_file(path: Path) -> bytes:
    """The bytes of a regular file: a pipe in its place would wait for ever.

    Raises:
        OSError: it cannot be read.
        UserError: it is no regular file, or too large for an image.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is not a file (allowed: an image)")
    check_size(str(path), status.st_size)
    return path.read_bytes()


def check_size(name: str, size: int) -> None:
    """Refuse bytes that are too many for an image.

    Raises:
        UserError: naming it.
    """
    if size > MAX_BYTES:
        raise UserError(f"{name}: has {size:,} bytes, allowed for an image are {MAX_BYTES:,}")


def open_image(content: bytes) -> Image.Image:
    """An image of one of the formats above, whatever its file is called."""
    return Image.open(io.BytesIO(content), formats=sorted(set(FORMATS.values())))
