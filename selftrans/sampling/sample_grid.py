"""Pictures of chosen classes or prompts from a checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from selftrans.config import SamplerConfig
from selftrans.runtime.files import atomic_path
from selftrans.runtime.text import filled
from selftrans.sampling.generate import ImageSampler

FONT = "DejaVu Sans"  # matplotlib brings it; it has Greek and Cyrillic letters, too
MARGIN = 2
"""Between names and the border, in pixels."""


def labelled_grid(rows: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> Image.Image:
    """A row of images for each condition, (columns, H, W, 3), with its name above.

    A name has as many lines as it needs. One in a script that the font lacks is shown as the number
    of its row.
    """
    columns, height, width = rows[0].shape[:3]
    line, path = max(12, height // 12), findfont(FONT)
    font, letters = ImageFont.truetype(path, line * 0.8), FT2Font(path).get_charmap()
    texts = [
        wrapped(
            name if all(ord(letter) in letters for letter in name) else f"row {row}",
            columns * width - 2 * MARGIN,
            font.getlength,
        )
        for row, name in enumerate(names, start=1)
    ]
    sheet_height = sum(height + line * len(lines) for lines in texts)
    sheet = Image.new("RGB", (columns * width, sheet_height), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for images, lines in zip(rows, texts, strict=True):
        for text in lines:
            draw.text((MARGIN, top), text, fill="black", font=font)
            top += line
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (column * width, top))
        top += height
    return sheet


def wrapped(text: str, width: float, length_of: Callable[[str], float]) -> list[str]:
    """A text in lines of a width at most: broken between words, and within one that is longer."""
    lines: list[str] = []
    for line in filled(text, lambda line: length_of(line) <= width):
        lines.append("")
        for letter in line:
            if lines[-1] and length_of(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def write_sample_grid(
    sampler: ImageSampler,
    settings: SamplerConfig,
    conditions: NDArray[Any],
    names: Sequence[str],
    columns: int,
    output: Path,
) -> None:
    """Write a picture with a row of samples for each condition; a column has the same noise.

    Args:
        sampler: the checkpoint.
        settings: the sampler.
        conditions: classes (R,) or captions (R, L, K), a row of the picture for each.
        names: what they are called.
        columns: samples of each condition.
        output: the picture.
    """
    noise = range(columns)
    rows = [
        sampler.images(settings, noise, np.repeat(condition[None], columns, axis=0))
        for condition in conditions
    ]
    with atomic_path(output) as temporary:
        labelled_grid(rows, names).save(temporary)
