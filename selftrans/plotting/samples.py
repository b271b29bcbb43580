"""Side-by-side samples: the same noise and class in every column."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selftrans.data.examples import Examples
from selftrans.plotting.grid import ImageGrid
from selftrans.plotting.names import fitted_names, width_of
from selftrans.plotting.style import GREY, plain, run_styles

NOT_AT_HAND = "The real images are not at hand; the reconstructions are of their latents."
NOTE = 0.16
SIZE = 7.0
"""Of names beside rows, in points, where a row is high enough."""


def sample_grid(
    images: Sequence[NDArray[np.uint8]],
    classes: NDArray[np.int64],
    rows: Sequence[tuple[int, str]],
    labels: Mapping[str, str],
    examples: Examples,
    class_names: Sequence[str],
    sampler: str,
    width_inches: float,
) -> Figure:
    """A row of images for each set of samples, grouped by training step.

    Above them real images of the same classes, and what the autoencoder makes of them.

    Args:
        images: the first images of each set, (columns, H, W, 3).
        classes: class of each column.
        rows: optimizer step and run of each set; sets of one step stand together.
        labels: the runs with their names.
        examples: the real images and their reconstructions.
        class_names: name of each class of the data set.
        sampler: name of the sampler, in the corner.
        width_inches: width of the figure.
    """
    ordered = sorted(zip(rows, images, strict=True), key=lambda item: item[0][0])
    above = {"real": examples.real, "reconstructed": examples.reconstructed}
    data = {name: pictures for name, pictures in above.items() if pictures is not None}
    steps = [step for (step, _), _ in ordered]
    first_rows = {step: len(data) + steps.index(step) for step in steps}
    left = 0.255 * width_inches
    cell = (width_inches - left) / len(classes)
    grid = ImageGrid(
        width_inches,
        left,
        fitted_names([class_names[label] for label in classes], cell),
        len(data) + len(rows),
        breaks=list(first_rows.values()),
        gap=0.0,
        group_gap=0.25 * cell,
        below=0 if examples.real is not None else NOTE,
    )
    grid.write(0.04, grid.top - 0.05, plain(sampler), va="bottom", color=GREY)
    shown = examples.in_columns(classes.tolist())
    for row, (name, pictures) in enumerate(data.items()):
        size = min(SIZE, 60 * cell)
        grid.name_rows(row, 1, name, left - 0.06, ha="right", color=GREY, fontsize=size)
        for column, index in enumerate(shown):
            if index is not None:
                grid.show(column, row, [pictures[index]])
    for step, first in first_rows.items():
        count = steps.count(step)
        text, size = _fitted_step(step, count * cell)
        grid.name_rows(first, count, text, 0.08, rotation=90, ha="center", fontsize=size)
    styles = run_styles(labels)
    for row, ((_, run), row_images) in enumerate(ordered, len(data)):
        name = styles[run].label.replace(" (", "\n(")
        size = min(SIZE, 60 * cell / (1 + name.count("\n")))
        colour = styles[run].colour
        grid.name_rows(row, 1, name, left - 0.06, ha="right", color=colour, fontsize=size)
        for column, image in enumerate(row_images):
            grid.show(column, row, [image])
    if examples.real is None:
        grid.write(left, grid.height - 0.04, NOT_AT_HAND, color=GREY, va="bottom")
    return grid.figure


def _fitted_step(step: int, room: float) -> tuple[str, float]:
    """What is written beside the rows of a step, and its size, in a height of inches."""
    short, long = f"{step:,}", f"{step:,} steps"
    if width_of(long, SIZE) <= room:
        return long, SIZE
    return short, SIZE * min(1, room / width_of(short, SIZE))
