"""Side-by-side samples: the same noise and class in every column."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selftrans.plotting.style import looks


def sample_grid(
    images: Sequence[NDArray[np.uint8]],
    classes: NDArray[np.int64],
    rows: Sequence[tuple[int, str]],
    labels: Mapping[str, str],
    width_inches: float,
) -> Figure:
    """A row of images for each set of samples, grouped by training step.

    Args:
        images: the first images of each set, (columns, H, W, 3).
        classes: class of each column.
        rows: optimizer step and run of each set; sets of one step stand together.
        labels: the runs with their names.
        width_inches: width of the figure.
    """
    steps = sorted({step for step, _ in rows})
    columns, gap, left, top = len(classes), 0.25, 0.24, 0.055
    cell = (1 - left) / columns  # of the width
    tall = len(rows) + gap * (len(steps) - 1)
    height_inches = width_inches * (tall * cell + top)
    figure = Figure(figsize=(width_inches, height_inches), layout=None)
    row_height = cell * width_inches / height_inches
    group_top = 1 - top * width_inches / height_inches
    for column, name in enumerate(classes):
        x = left + (column + 0.5) * cell
        figure.text(x, group_top + 0.01, str(name), ha="center", va="bottom", fontsize=7.5)
    place = 0.0
    for step in steps:
        group = [(run, image) for (at, run), image in zip(rows, images, strict=True) if at == step]
        middle = group_top - (place + len(group) / 2) * row_height
        figure.text(0.012, middle, f"{step:,} steps", rotation=90, ha="center", va="center", fontsize=7.5)
        for run, row_images in group:
            bottom = group_top - (place + 1) * row_height
            look = looks(labels)[run]
            figure.text(
                left - 0.008,
                bottom + row_height / 2,
                look.label,
                ha="right",
                va="center",
                fontsize=7,
                color=look.colour,
            )
            strip = np.concatenate(list(row_images), axis=1)
            axis = figure.add_axes((left, bottom, 1 - left, row_height))
            axis.imshow(strip, interpolation="nearest", aspect="auto")
            axis.set_axis_off()
            place += 1
        place += gap
    return figure
