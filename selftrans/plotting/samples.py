"""Side-by-side samples: the same noise and class in every column."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selftrans.plotting.style import run_styles


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
    left, top = 0.255 * width_inches, 0.2  # room for the names of rows and columns, in inches
    cell = (width_inches - left) / len(classes)
    gap = 0.25 * cell
    height_inches = top + len(rows) * cell + gap * (len(steps) - 1)
    figure = Figure(figsize=(width_inches, height_inches))
    figure.set_layout_engine("none")

    def write(x: float, y: float, text: str, **options: Any) -> None:
        """Text at (x, y) inches from the upper left corner."""
        figure.text(x / width_inches, 1 - y / height_inches, text, fontsize=7, **options)

    for column, name in enumerate(classes):
        write(left + (column + 0.5) * cell, top - 0.05, str(name), ha="center", va="bottom")
    y = top
    for step in steps:
        group = [(run, image) for (at, run), image in zip(rows, images, strict=True) if at == step]
        write(
            0.08,
            y + len(group) * cell / 2,
            f"{step:,} steps",
            rotation=90,
            ha="center",
            va="center",
        )
        for run, row_images in group:
            run_style = run_styles(labels)[run]
            name = run_style.label.replace(" (", "\n(")
            write(left - 0.06, y + cell / 2, name, ha="right", va="center", color=run_style.colour)
            rectangle = (
                left / width_inches,
                1 - (y + cell) / height_inches,
                1 - left / width_inches,
                cell / height_inches,
            )
            axis = figure.add_axes(rectangle)
            axis.imshow(_strip(row_images), interpolation="nearest", aspect="auto")
            axis.set_axis_off()
            y += cell
        y += gap
    return figure


def _strip(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images side by side, with a white line around each."""
    line = max(1, images.shape[1] // 32)
    framed = np.pad(images, ((0, 0), (line, line), (line, line), (0, 0)), constant_values=255)
    return np.concatenate(list(framed), axis=1)
