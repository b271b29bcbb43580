"""Curves over training: FID against steps, losses against steps."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from selftrans.evaluation.tables import require_comparable
from selftrans.plotting.style import RunStyle, legend_columns, run_styles

LOSSES = {
    "denoising": "denoising loss",
    "alignment": "alignment loss",
    "gradient_norm": "gradient norm",
}


def convergence(
    table: pd.DataFrame,
    labels: Mapping[str, str],
    width_inches: float,
    published: Mapping[str, Any] | None = None,
    imported: Collection[str] = (),
) -> Figure:
    """FID (and Inception score, if measured) against optimizer steps, a line for each run.

    With several seeds the line is their mean and the band reaches from the smallest to the largest.

    Args:
        table: one sampler's rows of ``metrics.csv``.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
        published: published curves of some of the runs, dashed behind ours: their ``metric``, and
            ``curves`` by run.
        imported: runs that others trained, for any number of steps: dotted levels.
    """
    columns, table = _measured(table)
    figure = Figure(figsize=(width_inches, width_inches * (0.5 if len(columns) > 1 else 0.68)))
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=True):
        for run, run_style in run_styles(labels).items():
            rows = table[(table["run"] == run) & table[column].notna()]
            if rows.empty:
                continue
            if run in imported:
                step, value = int(rows["step"].iloc[0]), float(rows[column].iloc[0])
                label = f"{run_style.label} ({step:,} steps)"
                axis.axhline(
                    value,
                    color=run_style.colour,
                    linewidth=1.2,
                    linestyle=(0, (1, 1.5)),
                    label=label,
                )
            else:
                _line_with_spread(axis, run_style, rows, "step", column)
            if published and column == published["metric"] and run in published["curves"]:
                steps, values = zip(*published["curves"][run], strict=True)
                axis.plot(
                    steps,
                    values,
                    color=run_style.colour,
                    linewidth=0.9,
                    linestyle=(0, (4, 2)),
                    alpha=0.6,
                    zorder=1,
                )
        if published and column == published["metric"]:
            axis.plot(
                [], [], color="#777777", linewidth=0.9, linestyle=(0, (4, 2)), label="published"
            )
        _steps_axis(axis, _metric_names(table.iloc[0])[column])
    _logarithmic(axes[0])
    _legend_above(figure, axes[0], title=_sampler_name(table.iloc[0]))
    return figure


def comparison(table: pd.DataFrame, labels: Mapping[str, str], width_inches: float) -> Figure:
    """FID and Inception score against steps (above) and training time (below), a line per run.

    Args:
        table: one sampler's rows of ``metrics.csv`` with ``hours``, wall time with the teachers'.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
    """
    columns, table = _measured(table)
    unit, seconds = ("hours", 3600) if table["hours"].max() >= 1 else ("minutes", 60)
    table = table.assign(cost=table["hours"] * 3600 / seconds)
    figure = Figure(figsize=(width_inches, 0.86 * width_inches))
    axes = figure.subplots(2, len(columns), squeeze=False)
    for axis, column in zip(axes.T, columns, strict=True):
        for run, run_style in run_styles(labels).items():
            rows = table[table["run"] == run]
            _line_with_spread(axis[0], run_style, rows, "step", column)
            mean = rows.groupby("step")[["cost", column]].mean()
            _line(axis[1], run_style, mean.set_index("cost")[column])
        name = _metric_names(table.iloc[0])[column]
        _steps_axis(axis[0], name)
        axis[1].set_xlabel(f"training time in {unit}, teachers included")
        axis[1].set_ylabel(name)
        axis[1].set_xlim(0, axis[1].dataLim.x1 * 1.04)
        axis[1].xaxis.set_major_locator(MaxNLocator(5))
    for axis in axes[:, 0]:
        _logarithmic(axis)
    _legend_above(figure, axes[0, 0], title=_sampler_name(table.iloc[0]))
    return figure


def sweep(table: pd.DataFrame, labels: Mapping[str, str], width_inches: float) -> Figure:
    """FID (and Inception score) against the guidance scale, a line for each run.

    Of its last checkpoint, means over seeds.

    Args:
        table: the rows of ``metrics.csv`` that belong to the sweep.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
    """
    columns, table = _measured(
        table[table["step"] == table.groupby("run")["step"].transform("max")],
        axes=("guidance_scale",),
    )
    figure = Figure(figsize=(width_inches, width_inches * (0.5 if len(columns) > 1 else 0.68)))
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    first = table.iloc[0]
    for axis, column in zip(axes, columns, strict=True):
        for run, run_style in run_styles(labels).items():
            rows = table[(table["run"] == run) & table[column].notna()]
            if len(rows):
                _line(axis, run_style, rows.groupby("guidance_scale")[column].mean())
        axis.set_xlabel("guidance scale")
        axis.set_ylabel(_metric_names(first)[column])
        axis.margins(x=0.04)
    _logarithmic(axes[0])
    interval = f"{first['guidance_low']:g} to {first['guidance_high']:g}"
    _legend_above(
        figure,
        axes[0],
        title=f"{first['sampler']}, {first['num_steps']} steps, guided for t in {interval}",
    )
    return figure


def losses(
    histories: Sequence[pd.DataFrame],
    runs: Sequence[str],
    labels: Mapping[str, str],
    width_inches: float,
    held_out: Sequence[pd.DataFrame | None] = (),
) -> Figure:
    """Denoising loss, alignment loss and gradient norm against optimizer steps.

    And the denoising loss on held-out images, where there are any.

    Args:
        histories: a training's ``history.csv`` each; several seeds of a run share its colour.
        runs: the run that each history belongs to.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
        held_out: the losses on held-out images of each of these trainings.
    """
    panels: list[tuple[str, str, Sequence[pd.DataFrame | None]]] = [
        (name, column, histories)
        for column, name in LOSSES.items()
        if any(history[column].any() for history in histories)
    ]
    if any(table is not None for table in held_out):
        panels.append(("held-out\ndenoising loss", "loss", held_out))
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(width_inches, 0.36 * rows * width_inches))
    axes = figure.subplots(rows, len(panels) // rows, squeeze=False).ravel()
    for axis, (name, column, tables) in zip(axes, panels, strict=True):
        labelled = set()
        for run, table in zip(runs, tables, strict=True):
            if table is None or not table[column].any():  # without alignment it has no loss
                continue
            run_style = run_styles(labels)[run]
            label = None if run in labelled else run_style.label
            axis.plot(
                table["step"], table[column], color=run_style.colour, linewidth=1, label=label
            )
            labelled.add(run)
        _steps_axis(axis, name)
        if column != "gradient_norm" and axis.dataLim.y0 > 0:  # a negative cosine has no logarithm
            _logarithmic(axis)
    _legend_above(figure, axes[0])
    return figure


def dynamics(histories: Sequence[pd.DataFrame], run_style: RunStyle, width_inches: float) -> Figure:
    """What alignment does while a run trains: its loss, the cosine, the two parts' gradients.

    Args:
        histories: ``history.csv`` of each seed.
        run_style: the run's.
        width_inches: width of the figure.
    """
    figure = Figure(figsize=(width_inches, 0.36 * width_inches))
    loss, cosine, gradients = figure.subplots(1, 3)
    for number, history in enumerate(histories):
        style = {"linewidth": 1, "alpha": 1 - 0.6 * number / len(histories)}
        loss.plot(history["step"], history["alignment"], color=run_style.colour, **style)
        cosine.plot(history["step"], history["cosine"], color=run_style.colour, **style)
        for part, colour in (("denoising", "#777777"), ("alignment", run_style.colour)):
            label, norms = part if number == 0 else None, history[f"{part}_gradient"]
            # A batch without a sample in range has norm 0, which a logarithmic axis cannot show.
            gradients.plot(
                history["step"], norms.where(norms > 0), color=colour, label=label, **style
            )
    _steps_axis(loss, "alignment loss", ticks=3)
    _steps_axis(cosine, "cosine of prediction\nand guiding feature", ticks=3)
    _steps_axis(gradients, "norm of the gradient", ticks=3)
    _logarithmic(gradients)
    gradients.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handlelength=1, columnspacing=1
    )
    figure.suptitle(run_style.label, fontsize=8, color=run_style.colour)
    return figure


def _measured(table: pd.DataFrame, axes: Collection[str] = ()) -> tuple[list[str], pd.DataFrame]:
    """The metrics that are drawn, and the rows that have the first of them.

    Raises:
        UserError: the rows differ in more than the axes.
    """
    columns = [column for column in ("fid", "is") if column in table]
    rows = table[table[columns[0]].notna()]
    require_comparable(rows, axes)
    return columns, rows


def _line_with_spread(
    axis: Axes, run_style: RunStyle, rows: pd.DataFrame, x: str, column: str
) -> None:
    """The mean over seeds, and a band from the smallest to the largest."""
    if rows.empty:
        return
    values = rows.groupby(x)[column]
    _line(axis, run_style, values.mean())
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


def _metric_names(row: "pd.Series[float]") -> dict[str, str]:
    return {
        "fid": f"FID ({row['extractor']} features, N = {row['num_samples']})",
        "is": f"inception score ({row['extractor']})",
    }


def _line(axis: Axes, run_style: RunStyle, values: "pd.Series[float]") -> None:
    axis.plot(
        values.index,
        values,
        color=run_style.colour,
        marker=run_style.marker,
        label=run_style.label,
        clip_on=False,
        zorder=3,
    )


def _steps_axis(axis: Axes, ylabel: str, ticks: int = 4) -> None:
    """Steps along the lower edge, with room for the last number."""
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel(ylabel)
    if np.isfinite(axis.dataLim.x1):  # horizontal levels alone have no steps
        axis.set_xlim(0, axis.dataLim.x1 * 1.04)
    axis.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(_thousands))


def _legend_above(figure: Figure, axis: Axes, title: str | None = None) -> None:
    handles, names = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside upper center",
        ncols=legend_columns(names),
        title=title,
        title_fontsize=7.5,
    )


def _logarithmic(axis: Axes) -> None:
    """A logarithmic axis with plain ticks: 1, 2, 5 of each decade, or evenly spread over few."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high / low > 8 else MaxNLocator(6))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def _sampler_name(row: "pd.Series[float]") -> str:
    guided = (
        "no guidance"
        if np.isclose(row["guidance_scale"], 1)
        else f"scale {row['guidance_scale']:g}"
    )
    return f"{row['sampler']}, {row['num_steps']} steps, {guided}"
