"""Curves of a page: what the interactive charts draw."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from selftrans.evaluation.comparison import Curves
from selftrans.evaluation.tables import METRIC_NAMES
from workflow.lib.page.tables import curves, digits_of, measured

Json = dict[str, Any]

HISTORY_NAMES = {
    "denoising": "Denoising loss",
    "alignment": "Alignment loss, weighted",
    "loss": "Total loss",
    "cosine": "Cosine similarity to the guiding features",
    "gradient_norm": "Gradient norm before clipping",
    "denoising_gradient": "Gradient norm of the denoising loss",
    "alignment_gradient": "Gradient norm of the alignment loss",
}
"""Columns of a history, as a chart calls them."""
POINTS = 200
"""Of a loss curve: a screen does not show more."""


def convergence_chart(
    table: pd.DataFrame,
    hours: Curves,
    shown: str,
    imported: Sequence[str],
    published: Mapping[str, Any] | None,
) -> Json:
    """Every metric of every sampler against steps and against training time.

    Args:
        table: all rows of ``metrics.csv``.
        hours: training time up to each checkpoint with that of its teachers, by run, step, seed.
        shown: the sampler that is shown first.
        imported: runs that are levels, since others trained them.
        published: published curves, as the experiment has them.
    """
    pairs = measured(table)
    samplers = list(dict.fromkeys(sampler for sampler, _ in pairs))
    samplers.sort(key=lambda sampler: sampler != shown)
    metrics = list(dict.fromkeys(metric for _, metric in pairs))
    unit, per_hour = time_unit(hours)
    series: list[Json] = []
    for sampler, metric in pairs:
        for run, steps in curves(table, sampler, metric).items():
            one: Json = {"run": run, "metric": metric, "sampler": sampler}
            one |= _spread({step: list(seeds.values()) for step, seeds in sorted(steps.items())})
            if run in imported:
                one["level"] = True
            elif run in hours:
                one["x"]["time"] = [
                    round(per_hour * fmean(hours[run][step].values()), 5) for step in sorted(steps)
                ]
            series.append(one)
    drawn: Mapping[str, Any] = published or {"metric": "", "curves": {}}
    for run, points in drawn["curves"].items():
        at, values = zip(*points, strict=True)
        series.append({
            "run": run, "metric": drawn["metric"], "sampler": shown, "published": True,
            "x": {"steps": list(at)}, "mean": list(values), "seeds": 1,
        })  # fmt: skip
    axes = [_option("steps", "Optimizer steps")]
    axes += [_option("time", f"Training time in {unit}")] if hours else []
    return {
        "choices": [
            _choice("metric", "Metric", [
                {**_option(name, METRIC_NAMES[name]), "digits": digits_of(name)}
                for name in metrics
            ]),
            _choice("sampler", "Sampler", [_option(name, name) for name in samplers]),
            _choice("x", "Against", axes),
        ],
        "series": series,
        "log": True,
    }  # fmt: skip


def dynamics_chart(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Json:
    """Losses, similarities and gradient norms against steps.

    Args:
        histories: those of every seed, by run.
    """
    series = []
    for run, seeds in histories.items():
        for column in HISTORY_NAMES:
            values: dict[int, list[float]] = {}
            for history in seeds:
                for step, value in thinned(history, column).items():
                    values.setdefault(step, []).append(value)
            if any(any(row) for row in values.values()):  # not the alignment of a run without one
                spread = _spread(dict(sorted(values.items())))
                series.append({"run": run, "metric": column, **spread})
    present = {one["metric"] for one in series}
    options = [
        {**_option(name, title), "digits": 4}
        for name, title in HISTORY_NAMES.items()
        if name in present
    ]
    axis = [_option("steps", "Optimizer steps")]
    choices = [_choice("metric", "Curve", options), _choice("x", "Against", axis)]
    return {"choices": choices, "series": series, "log": False, "lines": True}


def thinned(history: pd.DataFrame, column: str, points: int = POINTS) -> dict[int, float]:
    """A column by step: means over as many rows that at most ``points`` remain."""
    if column not in history:
        return {}
    rows = history[["step", column]].dropna()
    if rows.empty:
        return {}
    size = -(-len(rows) // points)
    starts = np.arange(0, len(rows), size)
    ends = np.minimum(starts + size, len(rows))
    means = np.add.reduceat(rows[column].to_numpy(), starts) / (ends - starts)
    steps = rows["step"].to_numpy()[ends - 1]
    return dict(zip(steps.tolist(), means.tolist(), strict=True))


def time_unit(hours: Curves) -> tuple[str, float]:
    """The unit of a time axis, and how many of it an hour has."""
    longest = max(
        (value for steps in hours.values() for seeds in steps.values() for value in seeds.values()),
        default=0.0,
    )
    return ("hours", 1) if longest >= 1 else ("minutes", 60)


def _spread(values: Mapping[int, Sequence[float]]) -> Json:
    """Mean, smallest and largest value over the seeds, at each step."""
    seeds = max(map(len, values.values()))
    curve: Json = {
        "x": {"steps": list(values)},
        "mean": [_rounded(fmean(row)) for row in values.values()],
        "seeds": seeds,
    }
    if seeds > 1:
        curve["low"] = [_rounded(min(row)) for row in values.values()]
        curve["high"] = [_rounded(max(row)) for row in values.values()]
    return curve


def _rounded(value: float) -> float:
    """Six digits: a page need not carry more."""
    return float(f"{value:.6g}")


def _option(key: str, title: str) -> Json:
    return {"id": key, "label": title}


def _choice(key: str, title: str, options: Sequence[Json]) -> Json:
    return {"id": key, "label": title, "options": list(options)}
