"""Image sources: labelled RGB images of one size, as uint8. A source has a file of its own."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from selftrans.config import (
    CocoSource,
    DatasetConfig,
    DigitsSource,
    FileSource,
    FolderSource,
    HuggingFaceSource,
    RepaSource,
    ScenesSource,
    UvitSource,
    ZipSource,
    load_dataset,
)
from selftrans.data.class_names import check_count
from selftrans.data.sources.base import CorruptImage, ImageSource
from selftrans.data.sources.coco import open_coco
from selftrans.data.sources.digits import Digits
from selftrans.data.sources.folder import open_folder
from selftrans.data.sources.huggingface import open_hugging_face
from selftrans.data.sources.repa import open_repa
from selftrans.data.sources.scenes import Scenes
from selftrans.data.sources.uvit import open_uvit
from selftrans.data.sources.zip import open_zip
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json

__all__ = [
    "CorruptImage",
    "ImageSource",
    "held_out",
    "left_out",
    "may_skip",
    "open_extracted",
    "open_source",
    "read_all",
]


def held_out(count: int) -> NDArray[np.bool_]:
    """Every tenth of ``count`` images, (N,).

    Classifier, trained encoder and probes are judged on them and not fitted to them. Diffusion
    models are trained on them as on all others; what those are judged on is ``training.held_out``.
    """
    return np.arange(count) % 10 == 0


def open_source(data: DatasetConfig, skipped: Collection[str] = ()) -> ImageSource:
    """The image source of a data file, without the images that extraction left out.

    Raises:
        UserError: it is absent, or holds another number of images, or of classes, than the data
            file says.
    """
    source = _open(data, skipped)
    if data.images not in (None, count := len(source.labels) + len(skipped)):
        raise UserError(
            f"data {data.name!r}: images: the source has {count}, the data file says {data.images}"
        )
    check_count(len(source.class_names), data.class_names, f"data {data.name!r}: class_names")
    return source


def _open(data: DatasetConfig, skipped: Collection[str]) -> ImageSource:
    source: ImageSource
    match data.source:
        case DigitsSource():
            source = Digits(data.image_size)
        case ScenesSource():
            source = Scenes(data.source, data.image_size)
        case FolderSource():
            source = open_folder(data.source, data.image_size, skipped)
        case ZipSource():
            source = open_zip(data.source, data.image_size, skipped)
        case CocoSource():
            source = open_coco(data.source, data.image_size, skipped)
        case HuggingFaceSource():
            source = open_hugging_face(data.source, data.image_size, skipped)
        case UvitSource():
            source = open_uvit(data.source, data.image_size)
        case RepaSource():
            source = open_repa(data.source, data.image_size, skipped)
    return source


def may_skip(data: DatasetConfig) -> bool:
    """Whether images that cannot be decoded, or have no caption, are left out."""
    return isinstance(data.source, FileSource) and data.source.on_error == "skip"


def open_extracted(data_file: Path) -> ImageSource:
    """The images of a data file that its latents, which lie beside it, have rows of.

    Raises:
        UserError: images may be left out, and it is not known which.
    """
    data = load_dataset(data_file)
    return open_source(data, left_out(data, data_file))


def left_out(data: DatasetConfig, data_file: Path) -> Collection[str]:
    """Names of the images that the latents, which lie beside the data file, have no rows of.

    Raises:
        UserError: images may be left out, and it is not known which.
    """
    if not may_skip(data):
        return ()
    manifest = data_file.parent / "latents/manifest.json"
    if not manifest.is_file():
        raise UserError(
            f"{manifest}: is needed to know what `on_error: skip` left out;"
            " extract the latents first"
        )
    names: list[str] = read_json(manifest)["skipped"]
    return names


def read_all(data: DatasetConfig) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All images (N, H, W, 3) and their classes (N,) in memory, for small data sets.

    Raises:
        CorruptImage: an image cannot be decoded, and may not be left out.
    """
    source = open_source(data)
    images, kept = [], []
    for index in range(len(source.labels)):
        try:
            images.append(source.read(range(index, index + 1))[0])
        except CorruptImage:
            if not may_skip(data):
                raise
            continue
        kept.append(index)
    if not images:
        raise UserError(
            f"data {data.name!r}: none of the {len(source.labels)} images can be decoded"
        )
    return np.stack(images), source.labels[kept]
