"""Planned comparisons at a glance: a row for each, better to the left."""

from collections.abc import Mapping, Sequence
from math import inf, isnan
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from selftrans.evaluation.significance import LEVEL
from selftrans.evaluation.significance_table import family_sentences, p_text, relative
from selftrans.plotting.axes import notes_below
from selftrans.plotting.style import GREY, plain, run_styles

ROW_INCHES, OTHER_INCHES = 0.27, 1.75
WIDEST = 0.6
"""How far an interval is shown beyond all values, over their range."""
FAR = 1e6
"""Beyond any axis, where an open interval ends."""


class _Point(NamedTuple):
    """A relative difference with its interval."""

    value: float
    low: float
    high: float


def significance(
    table: pd.DataFrame, labels: Mapping[str, str], baseline: str, width_inches: float
) -> Figure:
    """Intervals of each comparison: FID over training, steps and time to the opponent's FID.

    Markers are filled, and p-values dark, where Holm's corrected p is significant.

    Args:
        table: ``significance.csv``.
        labels: the runs, in order, with their names.
        baseline: the run whose name as an opponent is not repeated.
        width_inches: width of the figure.
    """
    rows = table[table["area_difference"].notna()].to_dict("records")
    styles = run_styles(labels)
    figure = Figure(figsize=(width_inches, ROW_INCHES * max(2, len(rows)) + OTHER_INCHES))
    quality, cost = figure.subplots(1, 2, sharey=True, width_ratios=(4, 3))
    names = []
    for y, row in enumerate(rows):
        against = "" if row["against"] == baseline else f"\nagainst {labels[row['against']]}"
        names.append(plain(labels[row["run"]] + against))
        colour, significant = styles[row["run"]].colour, row["p_holm"] < LEVEL
        ends = (row[f"area_difference{end}"] for end in ("", "_low", "_high"))
        _draw(quality, y, _Point(*map(relative, ends)), "o", colour, filled=significant)
        quality.annotate(
            f"p = {p_text(row['p_holm'])}" if row["tested"] else "not tested",
            (1, y), xycoords=quality.get_yaxis_transform(), xytext=(2, 0),
            textcoords="offset points", va="center", fontsize=6.5, annotation_clip=False,
            color="black" if significant else GREY,
        )  # fmt: skip
        _draw(cost, y - 0.16, _cost(row, "speed_up"), "o", colour)
        _draw(cost, y + 0.16, _cost(row, "time_ratio"), "s", colour)
    _limit(quality, [relative(row["area_difference"]) for row in rows])
    _limit(cost, [_cost(row, name).value for row in rows for name in ("speed_up", "time_ratio")])
    quality.set_xlabel("FID over\nthe whole training")
    cost.set_xlabel("cost of reaching the\nopponent's last FID")
    handles = [
        Line2D([], [], marker=marker, color=GREY, linestyle="none", label=label)
        for marker, label in (("o", "steps"), ("s", "time, teachers and encoders included"))
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=2, handletextpad=0,
        title=f"Differences from {styles[baseline].label}: left of the line is better",
        title_fontsize=8,
    )  # fmt: skip
    quality.set_yticks(range(len(rows)), names)
    quality.set_ylim(len(rows) - 0.4, -0.6)
    notes_below(figure, [_note(table)])
    return figure


def _cost(row: Mapping[Any, Any], name: str) -> _Point:
    """What it takes to reach the opponent's FID, relative to what the opponent took."""
    ratios = (row[f"{name}{end}"] for end in ("", "_high", "_low"))
    return _Point(*(inf if ratio == 0 else 1 / ratio - 1 for ratio in ratios))


def _draw(
    axis: Axes, y: float, point: _Point, marker: str, colour: str, *, filled: bool = True
) -> None:
    """A marker on its interval; in words, where there is no number."""
    if isnan(point.value) or point.value == inf:
        text = "unknown" if isnan(point.value) else "not reached"
        axis.text(
            0.98, y, text, transform=axis.get_yaxis_transform(), ha="right", va="center",
            fontsize=6, color=GREY,
        )  # fmt: skip
        return
    if not isnan(point.low):
        axis.hlines(y, point.low, min(point.high, FAR), color=colour, linewidth=1.2)
    axis.plot(
        [point.value], [y], marker=marker, color=colour, linestyle="none", zorder=3,
        markerfacecolor=colour if filled else "white", markersize=4.5,
    )  # fmt: skip


def _limit(axis: Axes, values: Sequence[float]) -> None:
    """An axis of percentages around the values and 0, with room for intervals of their size."""
    known = [0.0, *(value for value in values if not isnan(value) and value != inf)]
    low, high = min(known), max(known)
    room = WIDEST * max(high - low, 0.05)
    drawn_low, drawn_high = axis.dataLim.intervalx
    axis.set_xlim(
        max(low - room, min(drawn_low, low) - room / 5),
        min(high + room, max(drawn_high, high) + room / 5),
    )
    axis.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:+g} %" if value else "0")
    )
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _note(table: pd.DataFrame) -> str:
    family = family_sentences(table).replace("**", "")
    return (
        "Lines: 95 % intervals, cut where they leave the axis. p: sign-flip test of the area under"
        f" log FID, corrected by Holm; markers are filled where p < {LEVEL:.2g}. {family}"
    )
