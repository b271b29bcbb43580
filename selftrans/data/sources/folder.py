"""A folder of class folders, or of images with labels in a ``dataset.json``."""

from collections.abc import Collection
from pathlib import Path

from selftrans.config import FolderSource
from selftrans.data.sources.base import ImageFiles, images_below, labels_beside, listing_of_files
from selftrans.runtime.errors import UserError


def open_folder(settings: FolderSource, image_size: int, skipped: Collection[str]) -> ImageFiles:
    """The images of a folder.

    Raises:
        UserError: there is no such folder, no image in it, or an empty class folder.
    """
    root = Path(settings.path)
    names, labels = images_below(root), labels_beside(root)
    if labels is None:
        _refuse_empty_folders(root, {name.split("/")[0] for name in names})
    listing = listing_of_files(
        names, lambda index: (root / names[index]).read_bytes(), settings.path, labels
    )
    return ImageFiles(settings, image_size, listing, skipped)


def _refuse_empty_folders(root: Path, classes: set[str]) -> None:
    folders = {
        folder.name
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if empty := sorted(folders - classes):
        raise UserError(
            f"{root / empty[0]}: a class folder without an image, which would shift all classes"
            " behind it"
        )
