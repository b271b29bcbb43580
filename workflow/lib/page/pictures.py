"""Pictures of a page, as data: figures as they are, samples as small sheets; and captions."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from docutils.core import publish_parts
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from selftrans.data.images import read_image_archive
from selftrans.runtime.files import opened

COLUMNS, ROWS = 5, 4
"""Images in a sheet of samples."""
SIDE, GAP = 112, 4
"""Side of a small image, and the space between two, in pixels."""
QUALITY = 82


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def figure_uri(path: Path) -> tuple[str, tuple[int, int]]:
    """A figure (PNG) as data, and its width and height.

    Raises:
        UserError: it cannot be read.
    """
    with opened(path) as file:
        content = file.read()
    with Image.open(io.BytesIO(content)) as image:
        return data_uri(content, "png"), image.size


def sample_sheet(images: NDArray[np.uint8]) -> tuple[str, tuple[int, int]]:
    """The first images of a set, small, side by side; what is between them is transparent.

    Args:
        images: (N, H, W, 3).
    """
    shown = images[: COLUMNS * ROWS]
    columns, rows = min(COLUMNS, len(shown)), -(-len(shown) // COLUMNS)
    pitch = SIDE + GAP
    sheet = Image.new("RGBA", (columns * pitch - GAP, rows * pitch - GAP))
    for index, image in enumerate(shown):
        row, column = divmod(index, COLUMNS)
        small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(small, (column * pitch, row * pitch))
    content = io.BytesIO()
    sheet.save(content, "webp", quality=QUALITY)
    return data_uri(content.getvalue(), "webp"), sheet.size


def read_samples(path: Path) -> tuple[NDArray[np.uint8], list[int]]:
    """The images of a sheet and their classes.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    images, classes = read_image_archive(path)
    count = COLUMNS * ROWS
    return images[:count], [] if classes is None else classes[:count].tolist()


def caption(path: Path, wildcards: Mapping[str, Any], params: Mapping[str, Any]) -> Markup:
    """A caption of the report, as HTML.

    Args:
        path: the caption, in reStructuredText with the fields of Snakemake's reports.
        wildcards: those of the job that made the figure.
        params: those of its params that captions use.
    """
    text = path.read_text(encoding="utf-8")
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(text)  # noqa: S701 - it renders reStructuredText
    source = template.render(snakemake={"wildcards": wildcards, "params": params})
    settings = {"raw_enabled": False, "file_insertion_enabled": False, "report_level": 5}
    parts = publish_parts(source, writer="html5", settings_overrides=settings)
    return Markup(parts["body"])  # noqa: S704 - docutils has escaped it
