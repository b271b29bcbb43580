"""Side-by-side samples: the same noise and class in every column."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selftrans.plotting.grid import ImageGrid
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
    ordered = sorted(zip(rows, images, strict=True), key=lambda item: item[0][0])
    steps = [step for (step, _), _ in ordered]
    first_rows = {step: steps.index(step) for step in steps}
    left = 0.255 * width_inches
    cell = (width_inches - left) / len(classes)
    grid = ImageGrid(
        width_inches,
        left,
        [str(name) for name in classes],
        len(rows),
        breaks=list(first_rows.values())[1:],
        gap=0.0,
        group_gap=0.25 * cell,
    )
    for step, first in first_rows.items():
        grid.name_rows(
            first, steps.count(step), f"{step:,} steps", 0.08, rotation=90, ha="center", fontsize=7
        )
    styles = run_styles(labels)
    for row, ((_, run), row_images) in enumerate(ordered):
        name = styles[run].label.replace(" (", "\n(")
        grid.name_rows(row, 1, name, left - 0.06, ha="right", color=styles[run].colour, fontsize=7)
        for column, image in enumerate(row_images):
            grid.show(column, row, [image])
    return grid.figure
