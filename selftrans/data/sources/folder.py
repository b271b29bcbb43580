"""A folder of class folders, or of images with labels in a ``dataset.json``."""

from collections.abc import Collection
from pathlib import Path

from selftrans.config import FolderSource
from selftrans.data.image_paths import images_below, is_passed_over, read_image_file
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
    if labels is None:
        seen = sorted(entry for entry in root.iterdir() if not is_passed_over(entry.name))
        folders = {entry.name for entry in seen if entry.is_dir()}
        check_class_folders(f"{root}/", folders, [entry.name for entry in seen], names)
    listing = listing_of_files(
        names, lambda index: read_image_file(root / names[index]), settings.path, labels
    )
    return ImageFiles(settings, image_size, listing, skipped)
