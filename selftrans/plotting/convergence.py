"""Metrics over training, the differences from a baseline, and how much sooner it is reached."""

from collections.abc import Collection, Mapping
from math import isnan
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from selftrans.config import Metric
from selftrans.evaluation.comparison import (
    CONFIDENCE,
    Curves,
    PairedDifference,
    curves_of,
    mean_curve,
    paired_differences,
    speed_ups,
)
from selftrans.evaluation.tables import spread_column
from selftrans.plotting.axes import (
    DIFFERENCE_NAMES,
    EVEN,
    METRIC_AXES,
    caution_notes,
    draw_seeds,
    legend_above,
    logarithmic,
    measured,
    notes_below,
    setting_of,
    steps_axis,
)
from selftrans.plotting.style import GREY, RunStyle, run_styles

DASHES, DOTS = (0, (4, 2)), (0, (1, 1.5))
WIDEST_INTERVAL = 0.5
"""How far an interval is shown beyond all differences, over their range: Student's t interval of
two seeds may be ten times as wide as what the figure is about."""


def convergence(
    table: pd.DataFrame,
    labels: Mapping[str, str],
    width_inches: float,
    published: Mapping[str, Any] | None = None,
    imported: Collection[str] = (),
    baseline: str | None = None,
) -> Figure:
    """FID, Inception score and KID (where measured) against optimizer steps, a line for each run.

    With several seeds the line is their mean and the band reaches from the smallest to the largest.
    Below, the differences from the baseline at the same step, over pairs of the same seed.

    Args:
        table: one sampler's rows of ``metrics.csv``.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
        published: published curves of some of the runs, dashed behind ours: their ``metric``, and
            ``curves`` by run.
        imported: runs that others trained, for any number of steps: dotted levels.
        baseline: the run that the others are compared with; without it there are no differences.
    """
    metrics, drawn = measured(table, tuple(METRIC_AXES))
    styles = run_styles(labels)
    curves = {
        metric: curves_of(drawn[drawn["run"].isin(set(labels) - set(imported))], metric)
        for metric in metrics
    }
    compared = baseline if baseline is not None and _is_compared(curves, baseline) else None
    figure = Figure(figsize=(width_inches, width_inches * _height(len(metrics), bool(compared))))
    axes = figure.subplots(
        2 if compared else 1, len(metrics), squeeze=False,
        height_ratios=(3, 2) if compared else None,
    )  # fmt: skip
    for axis, metric in zip(axes[0], metrics, strict=True):
        for run, run_style in styles.items():
            rows = drawn[(drawn["run"] == run) & drawn[metric].notna()]
            if run in imported and len(rows):
                _draw_level(axis, run_style, rows, metric)
            else:
                draw_seeds(axis, run_style, rows, "step", metric)
                _draw_spread(axis, run_style, rows, metric)
        _draw_published(axis, styles, published, metric)
        steps_axis(axis, METRIC_AXES[metric], ticks=4 if len(metrics) < 3 else 3)
    if metrics[0] != "kid":  # which may be negative
        logarithmic(axes[0, 0])
    notes = []
    if compared:
        notes += _draw_comparison(axes, styles, curves, compared)
    if "kid" in metrics:
        notes.append("KID: vertical lines are ± one standard deviation over subsets of the images.")
    for column in axes.T:
        figure.align_ylabels(column)
    legend_above(figure, axes[0, 0], title=setting_of(drawn))
    notes_below(figure, [*notes, *caution_notes(table, metrics)])
    return figure


def _draw_comparison(
    axes: NDArray[Any],
    styles: Mapping[str, RunStyle],
    curves: Mapping[Metric, Curves],
    baseline: str,
) -> list[str]:
    """The lower row of panels, and where the baseline is reached; returns both in words."""
    for above, axis, (metric, of_metric) in zip(*axes, curves.items(), strict=True):
        differences = paired_differences(of_metric, metric, baseline)
        _draw_differences(axis, styles, differences, baseline)
        steps_axis(axis, f"Δ {DIFFERENCE_NAMES[metric]}", ticks=4 if len(curves) < 3 else 3)
        axis.set_xlim(above.get_xlim())
        above.set_xlabel("")
        above.tick_params(labelbottom=False)
    notes = [_differences_note(styles, differences, baseline)]
    if "fid" in curves:
        fid = axes[0, list(curves).index("fid")]
        notes.append(_draw_speed_ups(fid, styles, curves["fid"], baseline))
    return notes


def _height(panels: int, compared: bool) -> float:
    """Of a figure, over its width."""
    height = {1: 0.68, 2: 0.5}.get(panels, 0.42)
    return height * 1.6 if compared else height


def _is_compared(curves: Mapping[Metric, Curves], baseline: str) -> bool:
    """Whether there is a run beside the baseline."""
    return all(baseline in of_metric and len(of_metric) > 1 for of_metric in curves.values())


def _draw_level(axis: Axes, run_style: RunStyle, rows: pd.DataFrame, metric: Metric) -> None:
    step, value = int(rows["step"].iloc[0]), float(rows[metric].iloc[0])
    label = f"{run_style.label} ({step:,} steps)"
    axis.axhline(value, color=run_style.colour, linewidth=1.2, linestyle=DOTS, label=label)


def _draw_spread(axis: Axes, run_style: RunStyle, rows: pd.DataFrame, metric: Metric) -> None:
    """A metric's spread over its estimates, if it has one, around the mean over seeds."""
    if (column := spread_column(metric)) in rows and rows[column].notna().any():
        means = rows.groupby("step")[[metric, column]].mean()
        low, high = means[metric] - means[column], means[metric] + means[column]
        axis.vlines(means.index, low, high, color=run_style.colour, linewidth=0.8, alpha=0.7)


def _draw_published(
    axis: Axes, styles: Mapping[str, RunStyle], published: Mapping[str, Any] | None, metric: Metric
) -> None:
    if not published or metric != published["metric"]:
        return
    for run, curve in published["curves"].items():
        if run in styles:
            axis.plot(
                *zip(*curve, strict=True), color=styles[run].colour, linewidth=0.9,
                linestyle=DASHES, alpha=0.6, zorder=1,
            )  # fmt: skip
    axis.plot([], [], color=GREY, linewidth=0.9, linestyle=DASHES, label="published")


def _draw_differences(
    axis: Axes,
    styles: Mapping[str, RunStyle],
    differences: list[PairedDifference],
    baseline: str,
) -> None:
    """A line for each run, with its confidence interval where there are several seeds."""
    axis.axhline(0, color=styles[baseline].colour, linewidth=1)
    values = [0.0, *(one.difference for one in differences)]
    reach = WIDEST_INTERVAL * (max(values) - min(values))
    for run, run_style in styles.items():
        of_run = sorted((one for one in differences if one.run == run), key=lambda one: one.step)
        if run == baseline or not of_run:
            continue
        steps = [one.step for one in of_run]
        axis.plot(
            steps, [one.difference for one in of_run], color=run_style.colour,
            marker=run_style.marker, zorder=3,
        )  # fmt: skip
        shown = [one for one in of_run if not isnan(one.low)]
        axis.fill_between(
            [one.step for one in shown],
            [max(one.low, min(values) - reach) for one in shown],
            [min(one.high, max(values) + reach) for one in shown],
            color=run_style.colour, alpha=0.15, linewidth=0,
        )  # fmt: skip
    axis.yaxis.set_major_locator(MaxNLocator(4, steps=EVEN))


def _differences_note(
    styles: Mapping[str, RunStyle], differences: list[PairedDifference], baseline: str
) -> str:
    """What the lower row shows, in words."""
    name = styles[baseline].label
    pairs = sorted({one.seeds for one in differences if one.run != baseline})
    if not pairs:
        return f"Below: no run has a step and a seed in common with {name}."
    if pairs[-1] == 1:
        return f"Below: differences from {name} at the same step, of one seed."
    counts = " to ".join(map(str, dict.fromkeys((pairs[0], pairs[-1]))))
    return (
        f"Below: mean differences from {name} at the same step over {counts} pairs of the same"
        f" seed; bands are {100 * CONFIDENCE:g} % confidence intervals (Student's t), cut off"
        " where they leave the frame."
    )


def _draw_speed_ups(
    axis: Axes, styles: Mapping[str, RunStyle], curves: Curves, baseline: str
) -> str:
    """Mark where each run reaches the baseline's last FID; returns the same in words."""
    sooner = speed_ups(curves, baseline)
    last = max(curves[baseline])
    level = mean_curve(curves[baseline])[last]
    reached = {run: one.steps for run, one in sooner.items() if not isnan(one.steps)}
    axis.plot(
        [min(reached.values()), last], [level, level], color=GREY, linewidth=0.8, linestyle=DOTS,
        zorder=2,
    )  # fmt: skip
    words = []
    for run in styles:
        if run == baseline or run not in sooner:
            continue
        if run not in reached:
            words.append(f"{styles[run].label} not reached")
            continue
        axis.plot(
            [reached[run]], [level], marker="o", markersize=4.5, markerfacecolor="white",
            markeredgewidth=1, color=styles[run].colour, linestyle="none", zorder=4,
        )  # fmt: skip
        steps = float(f"{reached[run]:.3g}")
        words.append(f"{styles[run].label} {sooner[run].factor:.2f}x ({steps:,.0f} steps)")
    return (
        f"Speed-up to {styles[baseline].label}'s last FID of {level:.4g} (circles; interpolated"
        f" along log FID between checkpoints): {'; '.join(words)}."
    )
