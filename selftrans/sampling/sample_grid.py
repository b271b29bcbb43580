"""Pictures of chosen classes or prompts from a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from selftrans.config import SamplerConfig
from selftrans.runtime.files import atomic_path
from selftrans.sampling.generate import ImageSampler


def labelled_grid(rows: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> Image.Image:
    """A row of images for each condition, (columns, H, W, 3), with its name above."""
    columns, height, width = rows[0].shape[:3]
    line = max(12, height // 12)
    font = ImageFont.load_default(line * 0.8)
    sheet = Image.new("RGB", (columns * width, len(rows) * (height + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (images, name) in enumerate(zip(rows, names, strict=True)):
        top = row * (height + line)
        draw.text((2, top), name, fill="black", font=font)
        for column, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (column * width, top + line))
    return sheet


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
