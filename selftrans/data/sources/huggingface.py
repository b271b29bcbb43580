"""A directory of Hugging Face's ``datasets``."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selftrans.config import HuggingFaceSource
from selftrans.data.captions import ALL, captions_of_images
from selftrans.data.image_paths import read_image_file
from selftrans.data.sources.base import MAX_CLASSES, ImageFiles, Listing
from selftrans.runtime.errors import UserError, shortened


def open_hugging_face(
    settings: HuggingFaceSource, image_size: int, skipped: Collection[str]
) -> ImageFiles:
    """The images of a data set that ``save_to_disk`` wrote.

    Raises:
        UserError: it is not such a directory, or has no such split or columns.
    """
    datasets = import_datasets()
    table = _open_table(settings)
    if not isinstance(table.features[settings.image_column], datasets.Image):
        raise UserError(
            f"{settings.path}: source.image_column: {settings.image_column!r} holds no images"
        )
    if not len(table):
        raise UserError(f"{settings.path}: holds no image (looked for: rows)")
    labels, class_names = _classes(settings, table)
    encoded = table.select_columns([settings.image_column]).cast_column(
        settings.image_column, datasets.Image(decode=False)
    )

    def content(index: int) -> bytes:
        row: dict[str, Any] | None = encoded[index][settings.image_column]
        if row is None:
            return b""
        if row["bytes"] is None and row["path"] is None:
            return b""
        return row["bytes"] if row["bytes"] is not None else read_image_file(Path(row["path"]))

    names = [f"row {index}" for index in range(len(labels))]
    listing = Listing(names, labels, class_names, content, _captions(settings, table, names))
    return ImageFiles(settings, image_size, listing, skipped)


def _classes(settings: HuggingFaceSource, table: Any) -> tuple[NDArray[np.int64], Sequence[str]]:
    """Class of every row, and the names of classes."""
    column = settings.label_column
    if column is None:
        return np.zeros(len(table), np.int64), [ALL]
    try:
        classes: NDArray[Any] = np.asarray(table[column][:])
    except ValueError:  # rows of different lengths
        classes = np.empty((0, 0))
    if classes.ndim != 1 or classes.dtype.kind not in "iu" or classes.min(initial=0) < 0:
        raise UserError(f"{settings.path}: source.label_column: {column!r} holds no class numbers")
    if classes.max() >= MAX_CLASSES:
        raise UserError(
            f"{settings.path}: source.label_column: class {classes.max()},"
            f" allowed is a number below {MAX_CLASSES:,}"
        )
    labels = classes.astype(np.int64)
    names = getattr(table.features[column], "names", None)
    return labels, names or [str(label) for label in range(int(labels.max()) + 1)]


def _captions(
    settings: HuggingFaceSource, table: Any, names: Sequence[str]
) -> list[tuple[str, ...]] | None:
    """The captions of every row; None without a column of captions."""
    columns = [table[column][:] for column in _caption_columns(settings)]
    if not columns:
        return None

    def texts(index: int) -> Iterator[Any]:
        for column in columns:
            value = column[index]
            yield from value if isinstance(value, list) else [value]

    return captions_of_images(names, texts, settings.path, skip=settings.on_error == "skip")


def _caption_columns(settings: HuggingFaceSource) -> tuple[str, ...]:
    columns = settings.caption_column
    return (columns,) if isinstance(columns, str) else columns or ()


def import_datasets() -> ModuleType:
    """The library, a second that only this source needs.

    Raises:
        UserError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            "source.kind: 'huggingface' needs datasets, which is not installed (allowed: another"
            " source, or first: pip install -c pins.txt -e '.[hub]')"
        ) from None
    return datasets


def _open_table(settings: HuggingFaceSource) -> Any:
    """The split of the settings, which has their columns."""
    datasets = import_datasets()
    try:
        loaded = datasets.load_from_disk(settings.path)
    except Exception as error:  # datasets and pyarrow raise a dozen kinds
        reason = shortened(str(error), 200) or type(error).__name__
        raise UserError(f"{settings.path}: not a directory of `datasets` ({reason})") from None
    if isinstance(loaded, datasets.DatasetDict):
        if settings.split not in loaded:
            split = repr(settings.split) if settings.split else "none"
            raise UserError(
                f"{settings.path}: source.split is {split} (allowed: {', '.join(map(str, loaded))})"
            )
        loaded = loaded[settings.split]
    for key, column in (
        ("image_column", settings.image_column),
        ("label_column", settings.label_column),
        *(("caption_column", column) for column in _caption_columns(settings)),
    ):
        if column is not None and column not in loaded.column_names:
            allowed = ", ".join(loaded.column_names)
            raise UserError(
                f"{settings.path}: source.{key}: {column!r} is not a column (allowed: {allowed})"
            )
    return loaded
