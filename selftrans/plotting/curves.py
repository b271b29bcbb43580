"""Curves over training: FID against steps, losses against steps."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from selftrans.plotting.style import Look, looks

LOSSES = {"denoising": "denoising loss", "alignment": "alignment loss", "gradient_norm": "gradient norm"}


def convergence(table: pd.DataFrame, labels: Mapping[str, str], width_inches: float) -> Figure:
    """FID (and Inception score, if it is there) against optimizer steps, a line for each run.

    With several seeds the line is their mean and the band reaches from the smallest to the largest.

    Args:
        table: one sampler's rows of ``metrics.csv``.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
    """
    columns = [column for column in ("fid", "is") if column in table]
    table = table[table[columns[0]].notna()]
    figure = Figure(figsize=(width_inches, width_inches * (0.5 if len(columns) > 1 else 0.68)))
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    first = table.iloc[0]
    names = _metric_names(first)
    for axis, column in zip(axes, columns, strict=True):
        for run, look in looks(labels).items():
            rows = table[table["run"] == run]
            if len(rows):
                by_step = rows.groupby("step")[column]
                _line(axis, look, by_step.mean())
                if by_step.count().max() > 1:
                    spread = by_step.agg(["min", "max"])
                    axis.fill_between(
                        spread.index, spread["min"], spread["max"], color=look.colour, alpha=0.15, linewidth=0
                    )
        _steps_axis(axis, names[column])
    _logarithmic(axes[0])
    _legend_above(figure, axes[0], title=_sampler_name(first))
    return figure


def sweep(table: pd.DataFrame, labels: Mapping[str, str], width_inches: float) -> Figure:
    """FID (and Inception score) against the guidance scale, a line for each run's last checkpoint; means over seeds.

    Args:
        table: the rows of ``metrics.csv`` that belong to the sweep.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
    """
    table = table[table["step"] == table.groupby("run")["step"].transform("max")]
    columns = [column for column in ("fid", "is") if column in table]
    table = table[table[columns[0]].notna()]
    figure = Figure(figsize=(width_inches, width_inches * (0.5 if len(columns) > 1 else 0.68)))
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    first = table.iloc[0]
    for axis, column in zip(axes, columns, strict=True):
        for run, look in looks(labels).items():
            rows = table[(table["run"] == run) & table[column].notna()]
            if len(rows):
                _line(axis, look, rows.groupby("guidance_scale")[column].mean())
        axis.set_xlabel("guidance scale")
        axis.set_ylabel(_metric_names(first)[column])
        axis.margins(x=0.04)
    _logarithmic(axes[0])
    interval = f"{first['guidance_low']:g} to {first['guidance_high']:g}"
    _legend_above(figure, axes[0], title=f"{first['sampler']}, {first['num_steps']} steps, guided for t in {interval}")
    return figure


def losses(
    histories: Sequence[pd.DataFrame], runs: Sequence[str], labels: Mapping[str, str], width_inches: float
) -> Figure:
    """Denoising loss, alignment loss and gradient norm against optimizer steps.

    Args:
        histories: a training's ``history.csv`` each; several seeds of a run share its colour.
        runs: the run that each history belongs to.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
    """
    panels = {column: name for column, name in LOSSES.items() if any(history[column].any() for history in histories)}
    figure = Figure(figsize=(width_inches, 0.36 * width_inches))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (column, name) in zip(axes, panels.items(), strict=True):
        drawn = set()
        for run, history in zip(runs, histories, strict=True):
            if not history[column].any():  # a run without a signal has no alignment loss
                continue
            look = looks(labels)[run]
            label = None if run in drawn else look.label
            axis.plot(history["step"], history[column], color=look.colour, linewidth=1, label=label)
            drawn.add(run)
        _steps_axis(axis, name)
        if column != "gradient_norm":
            _logarithmic(axis)
    _legend_above(figure, axes[0])
    return figure


def _metric_names(row: "pd.Series[float]") -> dict[str, str]:
    return {
        "fid": f"FID ({row['extractor']} features, N = {row['num_samples']})",
        "is": f"inception score ({row['extractor']})",
    }


def _line(axis: Axes, look: Look, values: "pd.Series[float]") -> None:
    axis.plot(values.index, values, color=look.colour, marker=look.marker, label=look.label, clip_on=False, zorder=3)


def _steps_axis(axis: Axes, ylabel: str) -> None:
    """Steps along the lower edge, with room for the last number."""
    axis.set_xlabel("optimizer steps")
    axis.set_ylabel(ylabel)
    axis.set_xlim(0, axis.dataLim.x1 * 1.04)
    axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(_thousands))


def _legend_above(figure: Figure, axis: Axes, title: str | None = None) -> None:
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), title=title, title_fontsize=7.5)


def _logarithmic(axis: Axes) -> None:
    """A logarithmic axis whose ticks are plain numbers: 1, 2, 5 of each decade, or evenly spread within a few of them."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high / low > 8 else MaxNLocator(6))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _thousands(value: float, _: object = None) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def _sampler_name(row: "pd.Series[float]") -> str:
    guided = "no guidance" if np.isclose(row["guidance_scale"], 1) else f"scale {row['guidance_scale']:g}"
    return f"{row['sampler']}, {row['num_steps']} steps, {guided}"
