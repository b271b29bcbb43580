"""Planned comparisons at a glance: a row for each, better to the left."""

from collections.abc import Mapping, Sequence
from math import ceil, exp, floor, inf, isfinite, isnan, log2
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from selftrans.evaluation.cautions import texts_in
from selftrans.evaluation.significance import LEVEL
from selftrans.evaluation.significance_table import family_sentences, p_text
from selftrans.plotting.axes import caution_sentences, notes_below
from selftrans.plotting.style import GREY, plain, run_styles

ROW_INCHES, CAUTION_INCHES, OTHER_INCHES = 0.27, 0.12, 1.6
WIDEST = 0.6
"""How far an interval is shown beyond all values, over their range."""
MOST_OCTAVES = 3
"""That the axis of costs shows on either side of 1."""


class _Point(NamedTuple):
    """A ratio with its interval."""

    value: float
    low: float
    high: float


def significance(
    table: pd.DataFrame, labels: Mapping[str, str], baseline: str, width_inches: float
) -> Figure:
    """Intervals of each comparison: FID over training, steps and time to the opponent's FID.

    Both are ratios to the opponent's. Markers are filled, and p-values dark, where Holm's corrected
    p is significant.

    Args:
        table: ``significance.csv``.
        labels: the runs, in order, with their names.
        baseline: the run whose name as an opponent is not repeated.
        width_inches: width of the figure.
    """
    rows = table[table["area_difference"].notna()].to_dict("records")
    styles = run_styles(labels)
    cautions = caution_sentences(texts_in(*table["cautions"]))
    height = ROW_INCHES * max(2, len(rows)) + CAUTION_INCHES * len(cautions) + OTHER_INCHES
    figure = Figure(figsize=(width_inches, height))
    quality, cost = figure.subplots(1, 2, sharey=True, width_ratios=(4, 3))
    costs = [(_cost(row, "speed_up"), _cost(row, "time_ratio")) for row in rows]
    _limit_costs(cost, [ratio for pair in costs for ratio in pair])
    names = []
    for y, (row, (steps, time)) in enumerate(zip(rows, costs, strict=True)):
        against = "" if row["against"] == baseline else f"\nagainst {labels[row['against']]}"
        names.append(plain(labels[row["run"]] + against))
        colour, significant = styles[row["run"]].colour, row["p_holm"] < LEVEL
        ends = (exp(row[f"area_difference{end}"]) for end in ("", "_low", "_high"))
        marked = colour if row["tested"] else GREY
        _draw(quality, y, _Point(*ends), "o", marked, filled=significant or not row["tested"])
        quality.annotate(
            p_text(row["p_holm"]) if row["tested"] else "not tested",
            (1, y), xycoords=quality.get_yaxis_transform(), xytext=(2, 0),
            textcoords="offset points", va="center", fontsize=6.5, annotation_clip=False,
            color="black" if significant else GREY,
        )  # fmt: skip
        _draw(cost, y - 0.16, steps, "o", colour)
        _draw(cost, y + 0.16, time, "s", colour)
    quality.annotate(
        "Holm p", (1, 1), xycoords="axes fraction", xytext=(2, 2), textcoords="offset points",
        fontsize=6.5, annotation_clip=False,
    )  # fmt: skip
    _limit_quality(quality, [exp(row["area_difference"]) for row in rows])
    quality.set_xlabel("FID over the training,\nover the opponent's")
    cost.set_xlabel("cost of the opponent's\nlast FID, over its own")
    handles = [
        Line2D([], [], marker=marker, color=GREY, linestyle="none", label=label)
        for marker, label in (("o", "steps"), ("s", "time, teachers and encoders included"))
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=2, handletextpad=0,
        title=f"Left of the line is better. Opponent: {styles[baseline].label}, if not named",
        title_fontsize=8,
    )  # fmt: skip
    quality.set_yticks(range(len(rows)), names)
    quality.set_ylim(len(rows) - 0.4, -0.6)
    notes_below(figure, [_note(table), *cautions])
    return figure


def _cost(row: Mapping[Any, Any], name: str) -> _Point:
    """What it takes to reach the opponent's FID, over what the opponent took."""
    ratios = (row[f"{name}{end}"] for end in ("", "_high", "_low"))
    return _Point(*(inf if ratio == 0 else 1 / ratio for ratio in ratios))


def _draw(
    axis: Axes, y: float, point: _Point, marker: str, colour: str, *, filled: bool = True
) -> None:
    """A marker on its interval, which an arrow leaves open; in words, where there is no number."""
    if isfinite(point.low):
        edge = axis.get_xlim()[1] if axis.get_xscale() == "log" else inf
        axis.hlines(y, min(point.low, edge), min(point.high, edge), color=colour, linewidth=1.2)
        if point.high > edge:
            axis.plot([edge], [y], marker=">", color=colour, markersize=3, clip_on=False, zorder=3)
    if not isfinite(point.value):
        axis.annotate(
            "unknown" if isnan(point.value) else "not reached",
            (1, y), xycoords=axis.get_yaxis_transform(), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=6, color=GREY, annotation_clip=False,
        )  # fmt: skip
        return
    axis.plot(
        [point.value], [y], marker=marker, color=colour, linestyle="none", zorder=3,
        markerfacecolor=colour if filled else "white", markersize=4.5,
    )  # fmt: skip


def _limit_quality(axis: Axes, values: Sequence[float]) -> None:
    """An axis of percentages around the values and 1, with room for intervals of their size."""
    low, high = min([1.0, *values]), max([1.0, *values])
    room = WIDEST * max(high - low, 0.05)
    drawn_low, drawn_high = axis.dataLim.intervalx
    axis.set_xlim(
        max(low - room, min(drawn_low, low) - room / 5),
        min(high + room, max(drawn_high, high) + room / 5),
    )
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(
        FuncFormatter(
            lambda value, _: f"{100 * (value - 1):+.3g} %" if abs(value - 1) > 1e-9 else "0"
        )
    )
    _without_box(axis)


def _limit_costs(axis: Axes, ratios: Sequence[_Point]) -> None:
    """A logarithmic axis of whole octaves around all finite ratios and their intervals."""
    ends = [log2(end) for ratio in ratios for end in ratio if isfinite(end) and end > 0]
    low = max(-MOST_OCTAVES, floor(min([-0.5, *ends])))
    high = min(MOST_OCTAVES, ceil(max([0.5, *ends])))
    axis.set_xscale("log", base=2)
    axis.set_xlim(2.0**low, 2.0**high)
    stride = 1 if high - low <= MOST_OCTAVES else 2  # the names of more would touch
    named = (octave for octave in range(low, high + 1) if octave % stride == 0)
    axis.xaxis.set_major_locator(FixedLocator([2.0**octave for octave in named]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    _without_box(axis)


def _without_box(axis: Axes) -> None:
    """A line where the opponent stands, in place of an axis of names."""
    axis.axvline(1, color=GREY, linewidth=0.8, zorder=1)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _note(table: pd.DataFrame) -> str:
    family = family_sentences(table).replace("**", "")
    return (
        "Lines: 95 % intervals; they are not corrected for the number of comparisons, p is. p:"
        f" sign-flip test of the area under log FID; filled where p < {LEVEL:.2g}. {family}"
    )
