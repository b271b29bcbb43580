"""A folder of class folders, or of images with labels in a ``dataset.json``."""

from collections.abc import Collection
from pathlib import Path

from selftrans.config import FolderSource
from selftrans.data.image_paths import images_below, is_passed_over, read_image_file
from selftrans.data.sources.base import ImageFiles, labels_beside, listing_of_files
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG


def open_folder(settings: FolderSource, image_size: int, skipped: Collection[str]) -> ImageFiles:
    """The images of a folder.

    Raises:
        UserError: there is no such folder, no image in it, or an empty class folder.
    """
    root = Path(settings.path)
    names, labels = images_below(root), labels_beside(root)
    if labels is None:
        _check_folders(root, {name.split("/")[0] for name in names})
    listing = listing_of_files(
        names, lambda index: read_image_file(root / names[index]), settings.path, labels
    )
    return ImageFiles(settings, image_size, listing, skipped)


def _check_folders(root: Path, classes: set[str]) -> None:
    """Refuse an empty class folder, and say what lies beside the folders."""
    entries = sorted(entry for entry in root.iterdir() if not is_passed_over(entry.name))
    if beside := [entry.name for entry in entries if not entry.is_dir()]:
        LOG.warning("%s: %s lies beside the class folders, passed over", root, beside[0])
    if empty := [entry.name for entry in entries if entry.is_dir() and entry.name not in classes]:
        raise UserError(
            f"{root / empty[0]}: a class folder without an image, which would shift all classes"
            " behind it"
        )
