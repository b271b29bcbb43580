"""Files that are either whole or absent."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from selftrans.runtime.errors import Unavailable, UserError, shortened

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, None}
"""What a disk refuses writing by; numpy says no number where fewer bytes are written."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; on success it is synced and renamed to ``path``.

    The temporary name keeps the suffix, by which libraries (numpy, matplotlib) choose their format.
    Nothing remains under either name if the body raises. The mode follows the umask, also where a
    library (safetensors) would write for the owner alone.

    Raises:
        Unavailable: the disk is full or read-only, or the place may not be written to.
        UserError: there is a directory under that name.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with writing(path):
        try:
            if path.is_dir():
                raise UserError(f"{path}: is a directory, a file is to be written there")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
            _sync_directory(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one line what a disk refuses while ``path`` is written.

    Raises:
        Unavailable: it is full or read-only, or the place may not be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or str(error.filename).startswith(str(path.parent)):
            raise Unavailable(f"{path}: cannot be written ({_reason(error)})") from None
        raise


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A file, open to be read; whatever is no file is refused: a pipe would wait for ever.

    Raises:
        Unavailable: it is absent, or cannot be read.
        UserError: it is a directory, a pipe or a device.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        raise Unavailable(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory, allowed is a file") from None
    except (OSError, ValueError) as error:
        reason = _reason(error) if isinstance(error, OSError) else error
        raise Unavailable(f"{path}: cannot be read ({reason})") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(f"{path}: is a pipe or a device, allowed is a file")
        try:
            yield file
        except OSError as error:
            if error.filename is not None or error.errno is None:
                raise
            raise Unavailable(f"{path}: cannot be read ({_reason(error)})") from None


def remove_stale_temp_files(directory: Path, stem: str = "*") -> None:
    """Remove temporary files of killed processes; nobody else may be writing in ``directory``."""
    for remains in directory.glob(f".{stem}.*.tmp.*"):
        remains.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        Unavailable: the file is absent, or cannot be read.
        UserError: it is not text in UTF-8.
    """
    with opened(path) as file:
        try:
            return file.read().decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not text in UTF-8 ({error.reason})") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        Unavailable: the file is absent, or cannot be read.
        UserError: it is not JSON.
    """
    with opened(path) as file:
        try:
            return json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a JSON file ({' '.join(str(error).split())})") from None


def read_fields(path: Path, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """Read a JSON file of ours: an object with at least these fields, of these types.

    Raises:
        Unavailable, UserError: as ``read_json``; or it is another thing, or a field is missing.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, expected is an object")
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind):
            raise UserError(f"{path}: damaged, {key} is {shortened(repr(value.get(key)))}")
    return value


def file_identity(path: Path) -> str:
    """Name, size and time of a file: whoever writes it again changes them."""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits.

    Raises:
        Unavailable, UserError: it cannot be read.
    """
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
