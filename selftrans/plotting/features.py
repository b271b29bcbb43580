"""What features look like: colours of their principal components, probe accuracies, similarity between blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from selftrans.plotting.style import looks

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
    """A grid of pictures with names beside its rows and above its columns, all lengths in inches."""

    def __init__(self, width: float, left: float, columns: Sequence[str], rows: int, across: int, group: int) -> None:
        """Columns hold ``across`` pictures each; a gap stands before every ``group``-th row."""
        top, self.gap = 0.34, 0.07
        self.left, self.across = left, across
        self.cell = (width - left - self.gap * (len(columns) - 1)) / (len(columns) * across)
        self.width, self.height = width, top + rows * self.cell + self.gap * ((rows - 1) // group)
        self.figure = Figure(figsize=(self.width, self.height))
        self.figure.set_layout_engine("none")
        self.top, self.group = top, group
        for number, name in enumerate(columns):
            x, _ = self._place(number, 0)
            self.write(x + across * self.cell / 2, top - 0.05, name, ha="center", va="bottom")

    def _place(self, column: int, row: int) -> tuple[float, float]:
        x = self.left + column * (self.across * self.cell + self.gap)
        return x, self.top + row * self.cell + self.gap * (row // self.group)

    def write(self, x: float, y: float, text: str, **options: Any) -> None:
        """Text at (x, y) from the upper left corner."""
        options = {"fontsize": 6.5, **options}
        self.figure.text(x / self.width, 1 - y / self.height, text, **options)

    def name_rows(self, first: int, count: int, text: str, x: float, **options: Any) -> None:
        """Text beside the middle of some rows."""
        y = (self._place(0, first)[1] + self._place(0, first + count - 1)[1] + self.cell) / 2
        self.write(x, y, text, va="center", **options)

    def show(self, column: int, row: int, pictures: Sequence[NDArray[Any]]) -> None:
        """Pictures side by side in one cell of the sheet."""
        for number, picture in enumerate(pictures):
            x, y = self._place(column, row)
            x += number * self.cell
            line = 0.012  # of paper between two pictures
            place = (
                (x + line) / self.width, 1 - (y + self.cell - line) / self.height,
                (self.cell - 2 * line) / self.width, (self.cell - 2 * line) / self.height,
            )  # fmt: skip
            axis = self.figure.add_axes(place)
            axis.imshow(picture, interpolation="nearest", aspect="auto")
            axis.set_axis_off()


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
        images: the shown images, (I, H, W, 3).
        labels: the runs, in order, with their names.
        t: the time that the images were noised to.
        width_inches: width of the figure.
    """
    steps = list(dict.fromkeys(int(step) for arrays in runs.values() for step in arrays["steps"]))
    blocks = max(len(arrays["shown_blocks"]) for arrays in runs.values())
    columns = ["input", *(f"{step:,} steps" for step in sorted(steps))]
    sheet = _Sheet(width_inches, 1.12, columns, len(runs) * blocks, len(images), blocks)
    sheet.write(0.04, sheet.top - 0.05, f"t = {t:g}", va="bottom", color=GREY)
    for place, (run, look) in enumerate((run, look) for run, look in looks(labels).items() if run in runs):
        arrays = runs[run]
        sheet.name_rows(place * blocks, blocks, look.label.replace(" (", "\n("), 0.04, color=look.colour, fontsize=6)
        for number, block in enumerate(arrays["shown_blocks"]):
            row = place * blocks + number
            sheet.name_rows(row, 1, f"block {block}", sheet.left - 0.04, ha="right", fontsize=5.5, color=GREY)
            sheet.show(0, row, list(images))
            colours = principal_colours(arrays["maps"][:, number])  # one basis for all steps and images of the row
            for step, maps in zip(arrays["steps"], colours, strict=True):
                sheet.show(1 + sorted(steps).index(int(step)), row, list(maps))
    return sheet.figure


def guiding_features(
    columns: Mapping[str, Floats], images: NDArray[np.uint8], noisy: Floats, t: float, width_inches: float
) -> Figure:
    """Colours of what each signal follows, a column each, beside the input.

    Args:
        columns: tokens of the shown images, (I, T, D), by name.
        images: the shown images, (I, H, W, 3).
        noisy: the same noised, decoded or as latents' colours, (I, h, w, 3) in [0, 1].
        t: the time that they were noised to.
        width_inches: width of the figure.
    """
    names = ["input", f"noised,\nt = {t:g}", *(name.replace(": ", ":\n").replace(", ", ",\n") for name in columns)]
    sheet = _Sheet(width_inches, 0.02, names, len(images), 1, len(images))
    pictures = [images, noisy, *(principal_colours(tokens) for tokens in columns.values())]
    for column, shown in enumerate(pictures):
        for row, picture in enumerate(shown):
            sheet.show(column, row, [picture])
    return sheet.figure


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
            for run, look in looks(labels).items():
                own = blocks[(blocks["run"] == run) & (blocks["t"] == t)].groupby("block")[probe]
                mean = own.mean()
                axis.plot(mean.index, mean, color=look.colour, marker=look.marker, markersize=3, label=look.label)
                spread = own.agg(["min", "max"])
                axis.fill_between(
                    spread.index, spread["min"], spread["max"], color=look.colour, alpha=0.12, linewidth=0
                )
            reference = table[table["kind"] == "encoder"][probe]
            if len(reference):
                axis.axhline(reference.iloc[0], color=GREY, linestyle="--", linewidth=1, label=encoder)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
        row[0].set_ylabel(f"{name}: accuracy in %")
    for axis, t in zip(axes[0], times, strict=True):
        axis.set_title(f"t = {t:g}")
    for axis in axes[1]:
        axis.set_xlabel("block")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=-(-len(names) // 2))
    return figure


def similarity(matrices: Mapping[str, Floats], labels: Mapping[str, str], t: float, width_inches: float) -> Figure:
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
    shown = [(look, matrices[run]) for run, look in looks(labels).items() if run in matrices]
    for axis, (look, matrix) in zip(axes.flat, shown, strict=False):
        count = len(matrix)
        picture = axis.imshow(matrix, vmin=low, vmax=1, origin="lower", extent=(0.5, count + 0.5, 0.5, count + 0.5))
        axis.set_title(look.label, color=look.colour, fontsize=7)
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
