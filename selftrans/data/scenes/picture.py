"""The picture of a scene, by integer supersampling: the same bytes on any machine."""

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from selftrans.data.scenes.world import UNITS, Drawing, Painted

SUPERSAMPLING = 4
"""Samples of a pixel along each axis."""
STRIPE = 64
"""Height of a stripe in units; every second one is darker."""
DARKER = (3, 8)
"""By this fraction of the colour."""

Samples = NDArray[np.int32]
Mask = NDArray[np.bool_]
Counts = NDArray[np.int32]


def paint(drawing: Drawing, image_size: int) -> NDArray[np.uint8]:
    """The picture, (image_size, image_size, 3)."""
    picture = np.full((image_size, image_size, 3), drawing.grey, np.int32)
    for painted in drawing.painted:
        _paint_over(picture, painted, UNITS // image_size)
    return picture.astype(np.uint8)


def _paint_over(picture: NDArray[np.int32], painted: Painted, pixel: int) -> None:
    """Lay an object over a picture whose pixels have a side of ``pixel`` units."""
    reach = painted.radius + painted.radius // 4
    columns, rows = (
        range(max(0, (at - reach) // pixel), min(len(picture), (at + reach) // pixel + 1))
        for at in (painted.x, painted.y)
    )
    dx = _samples(columns, painted.x, pixel)[None, :]
    dy = _samples(rows, painted.y, pixel)[:, None]
    inside = _covers(painted.shape, dx, dy, painted.radius)
    covered_HW, rgb = _counted(inside), np.asarray(painted.rgb, np.int32)
    colours_HWC = covered_HW[..., None] * rgb
    if painted.striped:
        dark_HW = _counted(inside & ((dy + painted.radius) // STRIPE % 2 == 1))
        colours_HWC -= dark_HW[..., None] * (rgb - rgb * DARKER[0] // DARKER[1])
    area = SUPERSAMPLING**2
    box = picture[rows.start : rows.stop, columns.start : columns.stop]
    box[:] = (box * (area - covered_HW)[..., None] + colours_HWC + area // 2) // area


def _samples(pixels: range, centre: int, pixel: int) -> Samples:
    """Where the samples of these pixels lie, from ``centre``."""
    step = pixel // SUPERSAMPLING
    numbers = np.arange(pixels.start * SUPERSAMPLING, pixels.stop * SUPERSAMPLING, dtype=np.int32)
    return numbers * step + (step // 2 - centre)


def _counted(mask: Mask) -> Counts:
    """Samples of each pixel that are set."""
    counts: NDArray[np.uint8] = mask.view(np.uint8)
    for _ in range(2):  # rows, then columns
        parts = (counts[offset::SUPERSAMPLING] for offset in range(SUPERSAMPLING))
        counts = reduce(np.add, parts).T
    return counts.astype(np.int32)


def _covers(shape: str, dx: Samples, dy: Samples, radius: int) -> Mask:
    """Whether an object of this half extent covers a sample."""
    match shape:
        case "circle":
            return dx * dx + dy * dy <= radius * radius
        case "ring":
            distance = dx * dx + dy * dy
            return (distance <= radius * radius) & (4 * distance > radius * radius)
        case "square":
            return (abs(dx) * 8 <= radius * 7) & (abs(dy) * 8 <= radius * 7)
        case "diamond":
            return abs(dx) * 8 + abs(dy) * 8 <= radius * 9
        case "cross":
            thin_x, thin_y = abs(dx) * 16 <= radius * 5, abs(dy) * 16 <= radius * 5
            return (thin_x & (abs(dy) <= radius)) | (thin_y & (abs(dx) <= radius))
        case "triangle":  # its tip is above
            return (abs(dx) * 8 <= (dy + radius) * 5) & (dy * 4 <= radius * 3)
    raise AssertionError(shape)
