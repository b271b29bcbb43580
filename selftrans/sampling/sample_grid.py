"""Pictures of chosen classes from a checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from selftrans.config import SamplerConfig
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path
from selftrans.sampling.generate import ImageSampler

IMAGENET_CLASSES = 1000


def class_names(num_classes: int) -> list[str]:
    """Names of the classes: ImageNet's for 1000 classes, else their numbers."""
    if num_classes != IMAGENET_CLASSES:
        return [str(label) for label in range(num_classes)]
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(label).split(",")[0] for label in range(num_classes)]


def parse_classes(text: str, num_classes: int) -> list[int]:
    """``207,360`` as class numbers.

    Raises:
        UserError: one of them is not a class of the model.
    """
    for part in (parts := text.split(",")):
        digits = part.strip()
        if not digits.isdecimal() or len(digits) > 9 or int(digits) >= num_classes:
            raise UserError(
                f"--classes: {part.strip()!r} is not a class of the model"
                f" (allowed: 0 to {num_classes - 1})"
            )
    return [int(part) for part in parts]


def labelled_grid(rows: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> Image.Image:
    """A row of images for each class, (columns, H, W, 3), with its name above."""
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
    sampler: ImageSampler, settings: SamplerConfig, classes: Sequence[int], output: Path
) -> list[str]:
    """Write a picture with a row of samples for each class; a column has the same noise.

    Args:
        sampler: the checkpoint.
        settings: the sampler; ``num_samples`` is the number of columns.
        classes: class numbers.
        output: the picture.

    Returns:
        The names of the classes.
    """
    labels = class_names(sampler.model.shape.num_classes)
    names = [labels[label] for label in classes]
    noise = range(settings.num_samples)
    rows = [sampler.images(settings, noise, np.full(len(noise), label)) for label in classes]
    with atomic_path(output) as temporary:
        labelled_grid(rows, names).save(temporary)
    return names
