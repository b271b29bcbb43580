"""Figures of features: principal colours, probe accuracies, similarity between blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from selftrans.evaluation.run_features import RunFeatures
from selftrans.plotting.axes import draw_seeds
from selftrans.plotting.grid import ImageGrid
from selftrans.plotting.names import SIZES, ColumnNames, shortened_to
from selftrans.plotting.style import GREY, legend_columns, plain, run_styles

Floats = NDArray[np.floating]
Colours = NDArray[np.float64]


def principal_colours(tokens: Floats) -> Colours:
    """Tokens (..., T, D) as colours (..., side, side, 3): their first three principal components.

    All tokens share a basis and a scale, so that equal colours are equal features. A component's
    range from its 2nd to its 98th percentile fills its colour; its sign is the one that makes its
    largest loading positive.
    """
    *leading, count, width = tokens.shape
    flat = np.asarray(tokens, np.float64).reshape(-1, width)
    centred = flat - flat.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:3]
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    scores = centred @ axes.T
    low, high = np.percentile(scores, [2, 98], axis=0)
    colours = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    colours = np.pad(colours, ((0, 0), (0, 3 - colours.shape[1])), constant_values=0.5)
    side = round(count**0.5)
    return colours.reshape(*leading, side, side, 3)


def _pairs_above_each_other(pictures: NDArray[Any]) -> list[NDArray[Any]]:
    """Two images of each class, class by class, as two lines: the first ones above the second."""
    return [*pictures[0::2], *pictures[1::2]]


def feature_maps(
    runs: Mapping[str, RunFeatures],
    images: NDArray[np.uint8],
    labels: Mapping[str, str],
    t: float,
    width_inches: float,
) -> Figure:
    """Colours of block features over training steps, a row for each run and block.

    Args:
        runs: the first seed's features of each run.
        images: the shown images, two of each class, (I, H, W, 3).
        labels: the runs, in order, with their names.
        t: the time that the images were noised to.
        width_inches: width of the figure.
    """
    steps = sorted({int(step) for features in runs.values() for step in features.steps})
    blocks = max(len(features.shown_blocks) for features in runs.values())
    columns = ["input", *(f"{step:,} steps" for step in steps)]
    grid = ImageGrid(
        width_inches,
        1.12,
        ColumnNames.as_written(columns),
        len(runs) * blocks,
        cell=(len(images) // 2, 2),
        breaks=range(blocks, len(runs) * blocks, blocks),
    )
    grid.write(0.04, grid.top - 0.05, f"t = {t:g}", va="bottom", color=GREY)
    styles = {run: style for run, style in run_styles(labels).items() if run in runs}
    for index, (run, run_style) in enumerate(styles.items()):
        features, first = runs[run], index * blocks
        name = run_style.label.replace(" (", "\n(")
        grid.name_rows(first, blocks, name, 0.04, color=run_style.colour, fontsize=6)
        for number, block in enumerate(features.shown_blocks):
            row = first + number
            grid.name_rows(
                row, 1, f"block {block}", grid.left - 0.04, ha="right", fontsize=5.5, color=GREY
            )
            grid.show(0, row, _pairs_above_each_other(images))
            # One basis for all steps and images of the row.
            colours = principal_colours(features.maps[:, number])
            for step, maps in zip(features.steps, colours, strict=True):
                grid.show(1 + steps.index(int(step)), row, _pairs_above_each_other(maps))
    return grid.figure


def guiding_features(
    columns: Mapping[str, Floats],
    images: NDArray[np.uint8],
    noisy: Floats,
    t: float,
    classes: Sequence[str],
    width_inches: float,
) -> Figure:
    """Colours of what each alignment loss follows, a column each, beside the input.

    Args:
        columns: tokens of the shown images, (I, T, D), by name.
        images: the shown images, two of each class, (I, H, W, 3).
        noisy: colours of the same, noised, (I, h, w, 3) in [0, 1].
        t: the time that they were noised to.
        classes: name of the class of each image, (I,).
        width_inches: width of the figure.
    """
    names = ["input", f"noised,\nt = {t:g}", *(_folded(name) for name in columns)]
    above, left = ColumnNames.as_written(names), 0.16
    grid = ImageGrid(width_inches, left, above, len(images), breaks=range(2, len(images), 2))
    for row in range(0, len(images), 2):
        name = plain(shortened_to(classes[row], 1.9 * grid.side, SIZES[0]))
        grid.name_rows(row, 2, name, left - 0.08, rotation=90, ha="center")
    pictures = [images, noisy, *(principal_colours(tokens) for tokens in columns.values())]
    for column, shown in enumerate(pictures):
        for row, picture in enumerate(shown):
            grid.show(column, row, [picture])
    return grid.figure


def _folded(name: str) -> str:
    """A column's name in short lines, formulas as formulas."""
    name = plain(name).replace("f_c", "$f_c$").replace("f_g", "$f_g$").replace("f_u", "$f_u$")
    return name.replace(": ", ":\n").replace(", ", ",\n")


LEGEND_ROW_INCHES = 0.16


def discriminability(
    table: pd.DataFrame, labels: Mapping[str, str], encoder: str | None, width_inches: float
) -> Figure:
    """Accuracy of both probes against the block, a panel for each t, a line for each run.

    Lines are means over seeds, bands reach over all seeds.

    Args:
        table: rows of ``probe_rows`` with ``run`` and ``seed``.
        labels: the runs, in order, with their names.
        encoder: name of the encoder, whose accuracy is a dashed line.
        width_inches: width of the figure.
    """
    blocks = table[table["kind"] == "block"]
    times = sorted(blocks["t"].unique())
    figure = Figure(figsize=(width_inches, 0.72 * width_inches))
    axes = figure.subplots(2, len(times), sharex=True, sharey="row", squeeze=False)
    for row, (probe, name) in zip(axes, (("linear", "linear probe"), ("knn", "k-NN")), strict=True):
        for axis, t in zip(row, times, strict=True):
            for run, run_style in run_styles(labels).items():
                rows = blocks[(blocks["run"] == run) & (blocks["t"] == t)]
                draw_seeds(axis, run_style, rows, "block", probe, markersize=3)
            reference = table[table["kind"] == "encoder"][probe]
            if len(reference):
                axis.axhline(
                    reference.iloc[0], color=GREY, linestyle="--", linewidth=1, label=encoder
                )
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
        row[0].set_ylabel(f"{name}:\naccuracy in %")
    for axis, t in zip(axes[0], times, strict=True):
        axis.set_title(f"t = {t:g}")
    for axis in axes[1]:
        axis.set_xlabel("block")
    handles, names = axes[0, 0].get_legend_handles_labels()
    columns = legend_columns(names, width_inches)
    figure.legend(handles, names, loc="outside upper center", ncols=columns)
    figure.set_figheight(0.64 * width_inches + LEGEND_ROW_INCHES * -(-len(names) // columns))
    return figure


def similarity(
    matrices: Mapping[str, Floats], labels: Mapping[str, str], t: float, width_inches: float
) -> Figure:
    """Linear CKA between the blocks of each run.

    Args:
        matrices: (blocks, blocks) of each run.
        labels: the runs, in order, with their names.
        t: the time that the images were noised to.
        width_inches: width of the figure.
    """
    across = min(3, len(matrices))
    down = -(-len(matrices) // across)
    figure = Figure(figsize=(width_inches, width_inches * (0.34 * down + 0.04)))
    axes = figure.subplots(down, across, squeeze=False)
    low = min(0.99, *(float(matrix.min()) for matrix in matrices.values()))
    shown = [
        (run_style, matrices[run])
        for run, run_style in run_styles(labels).items()
        if run in matrices
    ]
    for axis, (run_style, matrix) in zip(axes.flat, shown, strict=False):
        count = len(matrix)
        picture = axis.imshow(
            matrix, vmin=low, vmax=1, origin="lower", extent=(0.5, count + 0.5, 0.5, count + 0.5)
        )
        axis.set_title(run_style.label, color=run_style.colour, fontsize=7)
        axis.grid(visible=False)
        for locator in (axis.xaxis, axis.yaxis):
            locator.set_major_locator(MaxNLocator(6, integer=True))
        if count <= 8:
            for i, j in np.ndindex(matrix.shape):
                dark = matrix[i, j] < (1 + low) / 2
                axis.text(
                    j + 1,
                    i + 1,
                    f"{matrix[i, j]:.2f}".lstrip("0"),
                    ha="center",
                    va="center",
                    fontsize=5,
                    color="white" if dark else "black",
                )
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("block")
    for axis in axes[:, 0]:
        axis.set_ylabel("block")
    figure.colorbar(picture, ax=axes, label=f"linear CKA at t = {t:g}", shrink=0.8)
    return figure
