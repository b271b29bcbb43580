"""Curves: metrics against cost and guidance scale, losses against steps."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selftrans.config import Metric
from selftrans.plotting.axes import (
    EVEN,
    METRIC_AXES,
    caution_notes,
    draw_line,
    draw_seeds,
    legend_above,
    logarithmic,
    measured,
    measurement_of,
    notes_below,
    setting_of,
    steps_axis,
)
from selftrans.plotting.style import GREY, RunStyle, run_styles

COMPARED: tuple[Metric, ...] = ("fid", "is")

LOSSES = {
    "denoising": "denoising loss",
    "alignment": "alignment loss",
    "gradient_norm": "gradient norm",
}


def comparison(table: pd.DataFrame, labels: Mapping[str, str], width_inches: float) -> Figure:
    """FID and Inception score against steps (above) and training time (below), a line per run.

    Args:
        table: one sampler's rows of ``metrics.csv`` with ``hours``, its time with the teachers'.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
    """
    columns, table = measured(table, COMPARED)
    unit, seconds = ("hours", 3600) if table["hours"].max() >= 1 else ("minutes", 60)
    table = table.assign(cost=table["hours"] * 3600 / seconds)
    figure = Figure(figsize=(width_inches, 0.86 * width_inches))
    axes = figure.subplots(2, len(columns), squeeze=False)
    for axis, column in zip(axes.T, columns, strict=True):
        for run, run_style in run_styles(labels).items():
            rows = table[table["run"] == run]
            draw_seeds(axis[0], run_style, rows, "step", column)
            mean = rows.groupby("step")[["cost", column]].mean()
            draw_line(axis[1], run_style, mean.set_index("cost")[column])
        name = METRIC_AXES[column]
        steps_axis(axis[0], name)
        axis[1].set_xlabel(f"training time in {unit}, teachers included")
        axis[1].set_ylabel(name)
        axis[1].set_xlim(0, axis[1].dataLim.x1 * 1.04)
        axis[1].xaxis.set_major_locator(MaxNLocator(5, steps=EVEN))
    for axis in axes[:, 0]:
        logarithmic(axis)
    for column in axes.T:
        figure.align_ylabels(column)
    legend_above(figure, axes[0, 0], title=setting_of(table))
    notes_below(figure, caution_notes(table, columns))
    return figure


def sweep(table: pd.DataFrame, labels: Mapping[str, str], width_inches: float) -> Figure:
    """FID (and Inception score) against the guidance scale, a line for each run.

    Of its last checkpoint, means over seeds.

    Args:
        table: the rows of ``metrics.csv`` that belong to the sweep.
        labels: the runs, in order, with their names.
        width_inches: width of the figure.
    """
    columns, table = measured(
        table[table["step"] == table.groupby("run")["step"].transform("max")],
        COMPARED,
        axes=("guidance_scale",),
    )
    figure = Figure(figsize=(width_inches, width_inches * (0.5 if len(columns) > 1 else 0.68)))
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    first = table.iloc[0]
    for axis, column in zip(axes, columns, strict=True):
        for run, run_style in run_styles(labels).items():
            rows = table[(table["run"] == run) & table[column].notna()]
            if len(rows):
                draw_line(axis, run_style, rows.groupby("guidance_scale")[column].mean())
        axis.set_xlabel("guidance scale")
        axis.set_ylabel(METRIC_AXES[column])
        axis.margins(x=0.04)
    logarithmic(axes[0])
    interval = f"{first['guidance_low']:g} to {first['guidance_high']:g}"
    legend_above(
        figure,
        axes[0],
        title=f"{first['sampler']}, {first['num_steps']} steps, guided for t in {interval};"
        f" {measurement_of(table)}",
    )
    notes_below(figure, caution_notes(table, columns))
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
        steps_axis(axis, name)
        if column != "gradient_norm" and axis.dataLim.y0 > 0:  # a negative cosine has no logarithm
            logarithmic(axis)
    legend_above(figure, axes[0])
    return figure


def dynamics(histories: Sequence[pd.DataFrame], run_style: RunStyle, width_inches: float) -> Figure:
    """What alignment does while a run trains: its loss, the cosine, the two parts' gradients.

    Without a panel of the cosine where nothing is followed.

    Args:
        histories: ``history.csv`` of each seed.
        run_style: the run's.
        width_inches: width of the figure.
    """
    figure = Figure(figsize=(width_inches, 0.36 * width_inches))
    follows = any(history["cosine"].notna().any() for history in histories)
    loss, *cosines, gradients = figure.subplots(1, 3 if follows else 2)
    for number, history in enumerate(histories):
        style = {"linewidth": 1, "alpha": 1 - 0.6 * number / len(histories)}
        loss.plot(history["step"], history["alignment"], color=run_style.colour, **style)
        for axis in cosines:
            axis.plot(history["step"], history["cosine"], color=run_style.colour, **style)
        for part, colour in (("denoising", GREY), ("alignment", run_style.colour)):
            label, norms = part if number == 0 else None, history[f"{part}_gradient"]
            # A batch without a sample in range has norm 0, which a logarithmic axis cannot show.
            gradients.plot(
                history["step"], norms.where(norms > 0), color=colour, label=label, **style
            )
    steps_axis(loss, "alignment loss")
    for axis in cosines:
        steps_axis(axis, "cosine of prediction\nand guiding feature")
    steps_axis(gradients, "norm of the gradient")
    logarithmic(gradients)
    gradients.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handlelength=1, columnspacing=1
    )
    figure.suptitle(run_style.label, fontsize=8, color=run_style.colour)
    return figure
