"""What the curves of several figures have in common: lines, axes, ticks, legend and notes."""

import textwrap
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, FuncFormatter, Locator, MaxNLocator, NullLocator

from selftrans.config import Metric
from selftrans.evaluation.cautions import caution_texts
from selftrans.evaluation.tables import METRIC_NAMES, require_comparable
from selftrans.plotting.style import RunStyle, legend_columns

METRIC_AXES: dict[Metric, str] = {
    "fid": "FID",
    "is": "inception score",
    "kid": "KID",
    "caption-accuracy": "captions shown (%)",
    "clip-score": "CLIP score",
}
DIFFERENCE_NAMES = METRIC_NAMES | {"caption-accuracy": "shown (%)"}
"""On the axes of differences, whose panels are low."""
SAMPLED = ["run", "seed", "step", "samples"]
"""What identifies a set of samples in a table."""
NOTE_SIZE = 6.5
TICK_DISTANCE = 12
"""Least distance of two ticks along the upright axis, in points."""
NICE = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 3), (1,))
"""Ticks in each decade of a logarithmic axis."""
EVEN = [1, 2, 2.5, 5, 10]
"""Distances of evenly spread ticks, times a power of ten."""


def measured(
    table: pd.DataFrame, metrics: Sequence[Metric], axes: Collection[str] = ()
) -> tuple[list[Metric], pd.DataFrame]:
    """Those of the metrics that were measured, and the rows that have the first of them.

    What another network measured of the same samples is put beside it.

    Raises:
        UserError: the rows differ in more than the axes.
    """
    found = [name for name in metrics if name in table and table[name].notna().any()]
    rows = table[table[found[0]].notna()]
    require_comparable(rows, axes)
    for name in found[1:]:
        if rows[name].isna().all():
            others = table[table[name].notna()]
            require_comparable(others, axes)
            rows = rows.drop(columns=name).merge(others[[*SAMPLED, name]], on=SAMPLED, how="left")
    return found, rows


def draw_line(axis: Axes, run_style: RunStyle, values: "pd.Series[float]", **look: Any) -> None:
    """A run's line with its markers; ``look`` is of matplotlib's line."""
    axis.plot(
        values.index,
        values,
        color=run_style.colour,
        marker=run_style.marker,
        label=run_style.label,
        clip_on=False,
        zorder=3,
        **look,
    )


def draw_seeds(
    axis: Axes, run_style: RunStyle, rows: pd.DataFrame, x: str, column: str, **look: Any
) -> None:
    """The mean over seeds, and a band from the smallest to the largest."""
    rows = rows[rows[column].notna()]
    if rows.empty:
        return
    values = rows.groupby(x)[column]
    draw_line(axis, run_style, values.mean(), **look)
    if values.count().max() > 1:
        spread = values.agg(["min", "max"])
        axis.fill_between(
            spread.index,
            spread["min"],
            spread["max"],
            color=run_style.colour,
            alpha=0.15,
            linewidth=0,
        )


def steps_axis(axis: Axes, ylabel: str, ticks: int = 4) -> None:
    """Steps along the lower edge, with room for the last number."""
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel(ylabel)
    if np.isfinite(axis.dataLim.x1):  # horizontal levels alone have no steps
        axis.set_xlim(0, axis.dataLim.x1 * 1.04)
    axis.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(StepsFormatter())


class StepsFormatter(Formatter):
    """Steps in one unit along an axis: plain, in thousands or in millions."""

    def __call__(self, value: float, _: int | None = None) -> str:
        """The label of a tick."""
        assert self.axis is not None
        largest = max(map(abs, self.axis.get_view_interval()))
        for unit, letter in ((1e6, "M"), (1e4, "k")):
            if largest >= unit and value:
                return f"{value / (unit if letter == 'M' else 1000):g}{letter}"
        return f"{value:g}"


def logarithmic(axis: Axes) -> None:
    """A logarithmic upright axis with plain ticks."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(PlainLogLocator(axis))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


class PlainLogLocator(Locator):
    """Round numbers on an upright logarithmic axis: as many as stand apart at its height."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes

    def __call__(self) -> Any:
        """The ticks."""
        return self.tick_values(*sorted(self.axes.get_ylim()))

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """The ticks from ``vmin`` to ``vmax``: the largest of some sets whose ticks stand apart."""
        decades = range(int(np.floor(np.log10(vmin))), int(np.ceil(np.log10(vmax))) + 1)
        sets = [np.array([part * 10.0**ten for ten in decades for part in parts]) for parts in NICE]
        sets += [
            np.asarray(MaxNLocator(n, steps=EVEN).tick_values(vmin, vmax)) for n in range(6, 1, -1)
        ]
        shown = [ticks[(ticks >= vmin * 0.999) & (ticks <= vmax * 1.001)] for ticks in sets]
        return max(shown, key=lambda ticks: len(ticks) if self._apart(ticks, vmin, vmax) else -1)

    def _apart(self, ticks: Any, vmin: float, vmax: float) -> bool:
        figure = self.axes.get_figure(root=True)
        assert figure is not None
        points = self.axes.get_position().height * figure.get_figheight() * 72
        room = points * np.diff(np.log(ticks)) / np.log(vmax / vmin)
        return bool(room.min(initial=np.inf) >= TICK_DISTANCE)


def legend_above(figure: Figure, axis: Axes, title: str | None = None) -> None:
    """The legend of an axis above the figure."""
    handles, names = axis.get_legend_handles_labels()
    legend = figure.legend(
        handles,
        names,
        loc="outside upper center",
        ncols=legend_columns(names, figure.get_figwidth()),
        title=None if title is None else _wrapped(figure, title, 7.5),
        title_fontsize=7.5,
    )
    legend.get_title().set_multialignment("center")


def notes_below(figure: Figure, notes: Iterable[str]) -> None:
    """Sentences below a figure, each on lines of its own; nothing without notes."""
    if lines := [_wrapped(figure, note, NOTE_SIZE) for note in notes]:
        figure.supxlabel(
            "\n".join(lines), x=0.012, ha="left", fontsize=NOTE_SIZE, color="#444444",
            linespacing=1.25, multialignment="left",
        )  # fmt: skip


def _wrapped(figure: Figure, text: str, size: float) -> str:
    """Text in lines as wide as the figure: a letter is about half as wide as it is high."""
    return textwrap.fill(text, int(figure.get_figwidth() * 72 / size / 0.53))


def caution_notes(table: pd.DataFrame, metrics: Sequence[Metric]) -> list[str]:
    """A sentence for each reason not to trust the numbers that are drawn."""
    return caution_sentences(
        text
        for metric in metrics
        for text in caution_texts(table[table[metric].notna()].to_dict("records"), [metric])
    )


def caution_sentences(texts: Iterable[str]) -> list[str]:
    """Reasons not to trust a number in sentences, each once."""
    return [f"Caution: {text}." for text in dict.fromkeys(texts)]


def setting_of(table: pd.DataFrame) -> str:
    """How the samples of comparable rows were made and measured."""
    row = table.iloc[0]
    scale = row["guidance_scale"]
    guided = "no guidance" if np.isclose(scale, 1) else f"scale {scale:g}"
    return f"{row['sampler']}, {row['num_steps']} steps, {guided}; {measurement_of(table)}"


def measurement_of(table: pd.DataFrame) -> str:
    """How the samples of comparable rows were measured."""
    row = table.iloc[0]
    return f"N = {row['num_samples']:,}, {row['extractor']} features"
