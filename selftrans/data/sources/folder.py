"""A folder of class folders, or of images with labels in a ``dataset.json``."""

from collections.abc import Collection
from pathlib import Path

from selftrans.config import FolderSource
from selftrans.data.captions import (
    CAPTIONS_SUFFIX,
    captions_of_images,
    check_text_files,
    is_text,
    lines_of,
)
from selftrans.data.image_paths import (
    files_below,
    images_below,
    is_passed_over,
    read_image_file,
)
from selftrans.data.sources.base import (
    ImageFiles,
    check_class_folders,
    labels_beside,
    listing_of_files,
)


def open_folder(settings: FolderSource, image_size: int, skipped: Collection[str]) -> ImageFiles:
    """The images of a folder.

    Raises:
        UserError: there is no such folder, no image in it, or an empty class folder.
    """
    root = Path(settings.path)
    names, labels = images_below(root), labels_beside(root)
    captions = None
    if settings.captions is not None:
        check_text_files(settings.path, names, set(files_below(root, is_text)))
        captions = captions_of_images(
            names, lambda index: lines_beside(root / names[index]), settings.path,
            skip=settings.on_error == "skip",
        )  # fmt: skip
    elif labels is None:
        seen = sorted(entry for entry in root.iterdir() if not is_passed_over(entry.name))
        folders = {entry.name for entry in seen if entry.is_dir()}
        check_class_folders(f"{root}/", folders, [entry.name for entry in seen], names)
    listing = listing_of_files(
        names, lambda index: read_image_file(root / names[index]), settings.path, labels, captions
    )
    return ImageFiles(settings, image_size, listing, skipped)


def lines_beside(image: Path) -> list[str]:
    """The lines with text of the text file beside an image; none without the file.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    path = image.with_suffix(CAPTIONS_SUFFIX)
    return lines_of(read_image_file(path), str(path)) if path.exists() else []
