"""A zip of class folders, or of images with labels in a ``dataset.json``."""

import lzma
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from selftrans.config import ZipSource
from selftrans.data.image_paths import check_size, is_image
from selftrans.data.sources.base import (
    LABELS_FILE,
    ImageFiles,
    listing_of_files,
    parse_labels,
)
from selftrans.runtime.errors import UserError


def open_zip(settings: ZipSource, image_size: int, skipped: Collection[str]) -> ImageFiles:
    """The images of a zip; folders that all of them lie in are not part of their names.

    Raises:
        UserError: it is not a zip, or holds no image.
    """
    try:
        archive = zipfile.ZipFile(settings.path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{settings.path}: not a zip, or truncated ({error})") from None
    members = sorted(name for name in archive.namelist() if is_image(name))
    shared = _shared_folders([PurePosixPath(name).parts[:-1] for name in members])
    root = "".join(f"{part}/" for part in shared)
    labels = None
    if f"{root}{LABELS_FILE}" in archive.namelist():
        labels = parse_labels(
            archive.read(f"{root}{LABELS_FILE}"), f"{settings.path}: {root}{LABELS_FILE}"
        )
    names = [name.removeprefix(root) for name in members]

    def content(index: int) -> bytes:
        member = archive.getinfo(members[index])
        check_size(f"{settings.path}: {member.filename}", member.file_size)
        try:
            return archive.read(member)
        except (RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError) as error:
            raise zipfile.BadZipFile(str(error)) from None  # encrypted, unknown method, damaged

    listing = listing_of_files(names, content, settings.path, labels)
    return ImageFiles(settings, image_size, listing, skipped)


def _shared_folders(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that all images lie in, but for the innermost, which is a class."""
    if not folders:
        return ()
    first, last = min(folders), max(folders)
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return first[:shared]
