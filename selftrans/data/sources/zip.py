"""A zip of class folders, or of images with labels in a ``dataset.json``."""

import lzma
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from selftrans.config import ZipSource
from selftrans.data.captions import (
    CAPTIONS_SUFFIX,
    captions_of_images,
    check_text_files,
    is_text,
    lines_of,
)
from selftrans.data.image_paths import check_names, check_size, is_image, is_passed_over
from selftrans.data.sources.base import (
    LABELS_FILE,
    ImageFiles,
    check_class_folders,
    listing_of_files,
    parse_labels,
)
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import opened


def open_zip(settings: ZipSource, image_size: int, skipped: Collection[str]) -> ImageFiles:
    """The images of a zip; folders that all of them lie in are not part of their names.

    Raises:
        UserError: it is not a zip, or holds no image.
    """
    with opened(Path(settings.path)):  # a pipe would wait for ever
        pass
    try:
        archive = zipfile.ZipFile(settings.path)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{settings.path}: not a zip, or truncated ({error})") from None

    def read(name: str) -> bytes:
        member = archive.getinfo(name)
        check_size(f"{settings.path}: {name}", member.file_size)
        try:
            return archive.read(member)
        except (RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError) as error:
            raise zipfile.BadZipFile(str(error)) from None  # encrypted, unknown method, damaged

    if climbing := [name for name in archive.namelist() if ".." in PurePosixPath(name).parts]:
        raise UserError(f"{settings.path}: {climbing[0]!r} leads out of the zip")
    members = sorted(name for name in archive.namelist() if is_image(name))
    shared = _shared_folders([PurePosixPath(name).parts[:-1] for name in members])
    root = "".join(f"{part}/" for part in shared)
    labels = None
    if f"{root}{LABELS_FILE}" in archive.namelist():
        source = f"{settings.path}: {root}{LABELS_FILE}"
        try:
            labels = parse_labels(read(f"{root}{LABELS_FILE}"), source)
        except zipfile.BadZipFile as error:
            raise UserError(f"{source}: damaged ({error})") from None
    names = [name.removeprefix(root) for name in members]
    check_names(settings.path, names)
    captions = None
    if settings.captions is not None:
        present = {name for name in archive.namelist() if is_text(name)}
        check_text_files(settings.path, members, present)

        def lines_beside(index: int) -> list[str]:
            text = str(PurePosixPath(members[index]).with_suffix(CAPTIONS_SUFFIX))
            try:
                return lines_of(read(text), f"{settings.path}: {text}") if text in present else []
            except zipfile.BadZipFile as error:
                raise UserError(f"{settings.path}: {text}: damaged ({error})") from None

        captions = captions_of_images(
            names, lines_beside, settings.path, skip=settings.on_error == "skip"
        )
    elif labels is None:
        entries = [name.removeprefix(root) for name in archive.namelist() if name.startswith(root)]
        seen = [entry for entry in entries if entry and not is_passed_over(entry)]
        folders = {entry.split("/")[0] for entry in seen if "/" in entry}
        check_class_folders(f"{settings.path}: {root}", folders, seen, names)

    def content(index: int) -> bytes:
        return read(members[index])

    listing = listing_of_files(names, content, settings.path, labels, captions)
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
