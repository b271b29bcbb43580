"""What features look like: colours of their principal components, probe accuracies, similarity between blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from selftrans.plotting.style import legend_columns, run_styles

Floats = NDArray[np.floating]
Colours = NDArray[np.float64]
GREY = "#777777"


def principal_colours(tokens: Floats) -> Colours:
    """Tokens (..., T, D) as red, green and blue (..., side, side, 3): their first three principal components.

    One basis and one scale for all that is given, so that equal colours are equal features. A component's range from its 2nd to
    its 98th percentile fills its colour; its sign is the one that makes its largest loading positive.
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


class _Sheet:
    """Pictures in rows and columns of cells, with names beside the rows and above the columns; all lengths in inches.

    Args:
        width: of the sheet.
        left: room for the rows' names.
        columns: their names.
        rows: number of rows of cells.
        cell: pictures across and down in a cell.
        group: a gap stands before every ``group``-th row.
    """

    GAP, LINE = 0.07, 0.012  # between cells, and around a picture

    def __init__(
        self,
        width: float,
        left: float,
        columns: Sequence[str],
        rows: int,
        cell: tuple[int, int],
        group: int,
    ) -> None:
        self.width, self.left, self.group, (self.across, self.down) = width, left, group, cell
        self.top = 0.1 + 0.11 * max(name.count("\n") + 1 for name in columns)
        self.side = (width - left - self.GAP * (len(columns) - 1)) / (len(columns) * self.across)
        self.height = self._corner(0, rows - 1)[1] + self.down * self.side
        self.figure = Figure(figsize=(width, self.height))
        self.figure.set_layout_engine("none")
        for number, name in enumerate(columns):
            x, _ = self._corner(number, 0)
            self.write(
                x + self.across * self.side / 2, self.top - 0.05, name, ha="center", va="bottom"
            )

    def _corner(self, column: int, row: int) -> tuple[float, float]:
        """The upper left corner of a cell, from that of the sheet."""
        x = self.left + column * (self.across * self.side + self.GAP)
        return x, self.top + row * (self.down * self.side + self.GAP / 2) + self.GAP * (
            row // self.group
        )

    def write(self, x: float, y: float, text: str, **options: Any) -> None:
        """Text at (x, y) from the upper left corner."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **{"fontsize": 6.5, **options})

    def name_rows(self, first: int, count: int, text: str, x: float, **options: Any) -> None:
        """Text beside the middle of some rows."""
        bottom = self._corner(0, first + count - 1)[1] + self.down * self.side
        self.write(x, (self._corner(0, first)[1] + bottom) / 2, text, va="center", **options)

    def show(self, column: int, row: int, pictures: Sequence[NDArray[Any]]) -> None:
        """Pictures in one cell, line by line."""
        left, top = self._corner(column, row)
        for number, picture in enumerate(pictures):
            x, y = left + number % self.across * self.side, top + number // self.across * self.side
            side = self.side - 2 * self.LINE
            place = (
                (x + self.LINE) / self.width, 1 - (y + self.side - self.LINE) / self.height,
                side / self.width, side / self.height,
            )  # fmt: skip
            axis = self.figure.add_axes(place)
            axis.imshow(picture, interpolation="nearest", aspect="auto")
            axis.set_axis_off()


def _pairs_above_each_other(pictures: NDArray[Any]) -> list[NDArray[Any]]:
    """Two images of each class, class by class, as two lines: the first ones, and below them the second ones."""
    return [*pictures[0::2], *pictures[1::2]]


def feature_maps(
    runs: Mapping[str, Mapping[str, NDArray[Any]]],
    images: NDArray[np.uint8],
    labels: Mapping[str, str],
    t: float,
    width_inches: float,
) -> Figure:
    """Colours of block features over training steps, a row for each run and block, the input beside them.

    Args:
        runs: the first seed's feature arrays of each run.
        images: the shown images, two of each class, (I, H, W, 3).
        labels: the runs, in order, with their names.
        t: the time that the images were noised to.
        width_inches: width of the figure.
    """
    steps = sorted({int(step) for arrays in runs.values() for step in arrays["steps"]})
    blocks = max(len(arrays["shown_blocks"]) for arrays in runs.values())
    columns = ["input", *(f"{step:,} steps" for step in steps)]
    sheet = _Sheet(width_inches, 1.12, columns, len(runs) * blocks, (len(images) // 2, 2), blocks)
    sheet.write(0.04, sheet.top - 0.05, f"t = {t:g}", va="bottom", color=GREY)
    for place, (run, run_style) in enumerate(
        (run, run_style) for run, run_style in run_styles(labels).items() if run in runs
    ):
        arrays = runs[run]
        sheet.name_rows(
            place * blocks,
            blocks,
            run_style.label.replace(" (", "\n("),
            0.04,
            color=run_style.colour,
            fontsize=6,
        )
        for number, block in enumerate(arrays["shown_blocks"]):
            row = place * blocks + number
            sheet.name_rows(
                row, 1, f"block {block}", sheet.left - 0.04, ha="right", fontsize=5.5, color=GREY
            )
            sheet.show(0, row, _pairs_above_each_other(images))
            colours = principal_colours(
                arrays["maps"][:, number]
            )  # one basis for all steps and images of the row
            for step, maps in zip(arrays["steps"], colours, strict=True):
                sheet.show(1 + steps.index(int(step)), row, _pairs_above_each_other(maps))
    return sheet.figure


def guiding_features(
    columns: Mapping[str, Floats],
    images: NDArray[np.uint8],
    noisy: Floats,
    t: float,
    width_inches: float,
) -> Figure:
    """Colours of what each signal follows, a column each, beside the input.

    Args:
        columns: tokens of the shown images, (I, T, D), by name.
        images: the shown images, two of each class, (I, H, W, 3).
        noisy: colours of the same, noised, (I, h, w, 3) in [0, 1].
        t: the time that they were noised to.
        width_inches: width of the figure.
    """
    names = ["input", f"noised,\nt = {t:g}", *(_folded(name) for name in columns)]
    sheet = _Sheet(width_inches, 0.02, names, len(images), (1, 1), 2)
    pictures = [images, noisy, *(principal_colours(tokens) for tokens in columns.values())]
    for column, shown in enumerate(pictures):
        for row, picture in enumerate(shown):
            sheet.show(column, row, [picture])
    return sheet.figure


def _folded(name: str) -> str:
    """A column's name in short lines, formulas as formulas."""
    name = name.replace("f_c", "$f_c$").replace("f_g", "$f_g$").replace("f_u", "$f_u$")
    return name.replace(": ", ":\n").replace(", ", ",\n")


def discriminability(
    table: pd.DataFrame, labels: Mapping[str, str], encoder: str | None, width_inches: float
) -> Figure:
    """Accuracy of both probes against the block, a panel for each t, a line for each run (means over seeds, band: all seeds).

    Args:
        table: rows of ``probe_rows`` with ``run`` and ``seed``.
        labels: the runs, in order, with their names.
        encoder: what the encoder is called, whose accuracy is a dashed line.
        width_inches: width of the figure.
    """
    blocks = table[table["kind"] == "block"]
    times = sorted(blocks["t"].unique())
    figure = Figure(figsize=(width_inches, 0.72 * width_inches))
    axes = figure.subplots(2, len(times), sharex=True, sharey="row", squeeze=False)
    for row, (probe, name) in zip(axes, (("linear", "linear probe"), ("knn", "k-NN")), strict=True):
        for axis, t in zip(row, times, strict=True):
            for run, run_style in run_styles(labels).items():
                own = blocks[(blocks["run"] == run) & (blocks["t"] == t)].groupby("block")[probe]
                mean = own.mean()
                axis.plot(
                    mean.index,
                    mean,
                    color=run_style.colour,
                    marker=run_style.marker,
                    markersize=3,
                    label=run_style.label,
                )
                spread = own.agg(["min", "max"])
                axis.fill_between(
                    spread.index,
                    spread["min"],
                    spread["max"],
                    color=run_style.colour,
                    alpha=0.12,
                    linewidth=0,
                )
            reference = table[table["kind"] == "encoder"][probe]
            if len(reference):
                axis.axhline(
                    reference.iloc[0], color=GREY, linestyle="--", linewidth=1, label=encoder
                )
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
        row[0].set_ylabel(f"{name}: accuracy in %")
    for axis, t in zip(axes[0], times, strict=True):
        axis.set_title(f"t = {t:g}")
    for axis in axes[1]:
        axis.set_xlabel("block")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=legend_columns(len(names)))
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
                    j + 1, i + 1, f"{matrix[i, j]:.2f}".lstrip("0"), ha="center", va="center", fontsize=5,
                    color="white" if dark else "black",
                )  # fmt: skip
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("block")
    for axis in axes[:, 0]:
        axis.set_ylabel("block")
    figure.colorbar(picture, ax=axes, label=f"linear CKA at t = {t:g}", shrink=0.8)
    return figure
