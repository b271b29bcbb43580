"""MS-COCO: a folder of images, and the JSON file of their captions, read without pycocotools."""

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from selftrans.config import CocoSource
from selftrans.data.captions import ALL, captions_of_images
from selftrans.data.image_paths import check_names, images_below, read_image_file
from selftrans.data.sources.base import ImageFiles, Listing, adm_crop, lanczos_crop
from selftrans.runtime.errors import UserError, shortened
from selftrans.runtime.files import read_fields
from selftrans.runtime.logs import LOG

CROPS = {"lanczos": lanczos_crop, "adm": adm_crop}


def open_coco(settings: CocoSource, image_size: int, skipped: Collection[str]) -> ImageFiles:
    """The images that the JSON file lists, in the order of their ids.

    The order of images is that of pycocotools' sorted keys, and that of an image's captions that of
    the file: so index and caption number are those of U-ViT's preparation.

    Raises:
        UserError: the JSON file is damaged, describes captions of an image that it does not list,
            lists one that is not in the folder, or an image has no caption that can be used.
    """
    root, file = Path(settings.path), Path(settings.annotations)
    content = read_fields(file, images=list, annotations=list)
    files = _files(content["images"], file)
    texts: dict[int, list[Any]] = {identifier: [] for identifier in sorted(files)}
    for entry in content["annotations"]:
        identifier = _number(entry, "image_id", "annotation", file)
        if identifier not in texts:
            raise UserError(f"{file}: a caption of image {identifier}, which it does not list")
        texts[identifier].append(entry.get("caption"))
    names = [files[identifier] for identifier in texts]
    check_names(str(file), names)
    found = set(images_below(root))
    if absent := [name for name in names if name not in found]:
        raise UserError(f"{root}: {absent[0]}: no such image, which {file} lists")
    if passed_over := len(found) - len(names):
        LOG.warning("%s: images that %s does not list, passed over: %d", root, file, passed_over)
    by_index = list(texts.values())
    captions = captions_of_images(
        names, lambda index: by_index[index], str(file), skip=settings.on_error == "skip"
    )
    listing = Listing(
        names,
        np.zeros(len(names), np.int64),
        [ALL],
        lambda index: read_image_file(root / names[index]),
        captions,
    )
    return ImageFiles(settings, image_size, listing, skipped, CROPS[settings.crop])


def _files(images: list[Any], file: Path) -> dict[int, str]:
    """Names of the images by their ids."""
    files: dict[int, str] = {}
    for entry in images:
        identifier = _number(entry, "id", "image", file)
        name = entry.get("file_name")
        if not isinstance(name, str) or not name or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"{file}: image {identifier}: file_name: {shortened(repr(name), 80)}"
                " (allowed: a path below the folder of images)"
            )
        if identifier in files:
            raise UserError(f"{file}: two images have the id {identifier}")
        files[identifier] = name
    if not files:
        raise UserError(f"{file}: images: lists none")
    return files


def _number(entry: Any, key: str, kind: str, file: Path) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if type(value) is not int:
        found = entry if value is None else value
        raise UserError(
            f"{file}: an {kind} with {key}: {shortened(repr(found), 80)} (allowed: a whole number)"
        )
    return value
