"""The comparison of runs: paired by seed, against steps and against what they cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, log, nan, sqrt
from statistics import fmean, stdev

import pandas as pd
from scipy import stats

from selftrans.config import Metric
from selftrans.evaluation.cautions import Footnotes, caution_cell, caution_texts, texts_in
from selftrans.evaluation.markdown import markdown_table
from selftrans.evaluation.tables import METRIC_NAMES, require_comparable

CONFIDENCE = 0.95
Curves = dict[str, dict[int, dict[int, float]]]
"""A metric by run, step and seed."""


def rows_with(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Those of one sampler's rows of ``metrics.csv`` that have a metric.

    Raises:
        UserError: they are not comparable.
    """
    rows = table[table[metric].notna()]
    require_comparable(rows)
    if metric in ("precision", "recall"):
        require_comparable(rows, settings=("distances",))
    return rows


def curves_of(table: pd.DataFrame, metric: str) -> Curves:
    """A metric of one sampler's rows of ``metrics.csv``, in their order.

    Raises:
        UserError: the rows that have it are not comparable.
    """
    rows = rows_with(table, metric)
    curves: Curves = {}
    for run, step, seed, value in rows[["run", "step", "seed", metric]].itertuples(index=False):
        curves.setdefault(str(run), {}).setdefault(int(step), {})[int(seed)] = float(value)
    return curves


def mean_and_std(values: Iterable[float]) -> tuple[float, float]:
    """Over seeds; the standard deviation of a single one is nan."""
    listed = list(values)
    return fmean(listed), stdev(listed) if len(listed) > 1 else nan


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its confidence interval by Student's t.

    The ends are nan for less than two values; so is the mean without any.
    """
    if len(values) < 2:
        return (values[0] if values else nan), nan, nan
    mean = fmean(values)
    quantile = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
    half = quantile * stdev(values) / sqrt(len(values))
    return mean, mean - half, mean + half


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A run at a step, and its difference from the baseline over pairs of the same seed."""

    run: str
    step: int
    metric: str
    seeds: int
    """Number of pairs."""
    mean: float
    """Of the run, over all its seeds."""
    std: float
    """Of the run, over all its seeds; nan for a single one."""
    difference: float
    """Mean over the pairs; nan without a pair."""
    low: float
    """Lower end of its confidence interval: Student's t over the pairs; nan for less than two."""
    high: float
    """Its upper end."""


def paired_difference(
    curves: Curves, metric: str, baseline: str, run: str, step: int
) -> PairedDifference:
    """A run at a step, compared with the baseline at the same step."""
    values, others = curves[run][step], curves[baseline].get(step, {})
    pairs = [value - others[seed] for seed, value in values.items() if seed in others]
    difference, low, high = mean_interval(pairs)
    mean, std = mean_and_std(values.values())
    return PairedDifference(
        run=run,
        step=step,
        metric=metric,
        seeds=len(pairs),
        mean=mean,
        std=std,
        difference=difference,
        low=low,
        high=high,
    )


def paired_differences(curves: Curves, metric: str, baseline: str) -> list[PairedDifference]:
    """Every run at every step that has a pair with the baseline, in order."""
    differences = [
        paired_difference(curves, metric, baseline, run, step)
        for run, steps in curves.items()
        for step in steps
    ]
    return [difference for difference in differences if difference.seeds]


def paired_table(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """``paired_differences`` of every metric in one sampler's rows of ``metrics.csv``."""
    rows = [
        asdict(difference)
        for metric in METRIC_NAMES
        if metric in table
        for difference in paired_differences(curves_of(table, metric), metric, baseline)
    ]
    return pd.DataFrame(rows)


def total_seconds(seconds: Curves, teachers: Mapping[str, Sequence[tuple[str, int]]]) -> Curves:
    """Time up to every checkpoint with that of its teachers, and of theirs.

    A training counts once, up to its last use.

    Args:
        seconds: time of each training up to a checkpoint, over all its attempts.
        teachers: for each run, the run and step of every teacher.
    """

    def needed(run: str) -> dict[str, int]:
        steps: dict[str, int] = {}
        for teacher, step in teachers.get(run, ()):
            for name, at in ((teacher, step), *needed(teacher).items()):
                steps[name] = max(at, steps.get(name, 0))
        return steps

    return {
        run: {
            step: {
                seed: value + sum(seconds[teacher][at][seed] for teacher, at in needed(run).items())
                for seed, value in values.items()
            }
            for step, values in steps.items()
        }
        for run, steps in seconds.items()
    }


def mean_curve(steps: Mapping[int, Mapping[int, float]]) -> dict[int, float]:
    """Means over the seeds."""
    return {step: fmean(values.values()) for step, values in sorted(steps.items())}


def steps_to_reach(curve: Mapping[int, float], level: float) -> float:
    """The step at which a falling curve first reaches ``level``.

    Interpolated along its logarithm between checkpoints; its first step, if it starts there; nan,
    if it never does.
    """
    before: tuple[int, float] | None = None
    for step, value in curve.items():
        if value <= level:
            if before is None:
                return float(step)
            share = (log(before[1]) - log(level)) / (log(before[1]) - log(value))
            return before[0] + share * (step - before[0])
        before = step, value
    return nan


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How soon a run reaches the baseline's last value."""

    steps: float
    """Where its mean curve first does; nan if it never does."""
    factor: float
    """The baseline's steps over these."""


def speed_ups(curves: Curves, baseline: str) -> dict[str, SpeedUp]:
    """Of every run, the baseline included, by the metric (FID) whose curves these are."""
    last = max(curves[baseline])
    level = mean_curve(curves[baseline])[last]
    reached = {run: steps_to_reach(mean_curve(steps), level) for run, steps in curves.items()}
    return {run: SpeedUp(steps=steps, factor=last / steps) for run, steps in reached.items()}


def comparison_table(
    table: pd.DataFrame,
    seconds: Curves,
    teachers: Mapping[str, Sequence[tuple[str, int]]],
    baseline: str,
) -> pd.DataFrame:
    """A row for each run at its last checkpoint: FID and IS, differences, speed-up, cost.

    Args:
        table: one sampler's rows of ``metrics.csv``.
        seconds: time of each training up to a checkpoint.
        teachers: for each run, the run and step of every teacher.
        baseline: the run that the others are compared with.
    """
    compared: tuple[Metric, ...] = ("fid", "is")
    metrics = {metric: curves_of(table, metric) for metric in compared if metric in table}
    first = next(iter(metrics.values()))
    total = total_seconds(seconds, teachers)
    last_of_baseline = max(first[baseline])
    per_step = mean_curve(seconds[baseline])[last_of_baseline] / last_of_baseline
    sooner = speed_ups(metrics["fid"], baseline) if "fid" in metrics else {}
    rows = []
    for run, steps in first.items():
        step = max(steps)
        row: dict[str, object] = {"run": run, "step": step, "seeds": len(steps[step])}
        for metric, curves in metrics.items():
            paired = paired_difference(curves, metric, baseline, run, step)
            for column in ("mean", "std", "difference", "low", "high"):
                row[f"{metric}_{column}"] = getattr(paired, column)
        if "fid" in metrics:
            row |= {"steps_to_baseline": sooner[run].steps, "speed_up": sooner[run].factor}
        last = table[(table["run"] == run) & (table["step"] == step)].to_dict("records")
        row |= {
            f"{metric}_cautions": caution_cell(caution_texts(last, [metric])) for metric in metrics
        }
        spent = mean_curve(seconds[run])[step]
        row |= {"seconds_per_step": spent / step, "cost_per_step": spent / step / per_step}
        rows.append(row | {"hours": mean_curve(total[run])[step] / 3600})
    return pd.DataFrame(rows)


PAGE = """# {name}: the comparison

![FID and inception score against optimizer steps and against training time]({figure})

{table}
Last checkpoint of every run; mean ± standard deviation over its seeds. Δ: mean difference from
{baseline} over pairs of the same seed, with its 95 % confidence interval (Student's t). Steps:
where the mean FID first reaches {baseline}'s last, interpolated along its logarithm. The cost of a
step is its time over {baseline}'s: on one thread of a CPU the processor's, else the wall's, with
any jobs beside it. Hours include those of teachers trained here, but neither an encoder's training
nor its extraction of features.
"""


def comparison_page(
    comparison: pd.DataFrame, labels: Mapping[str, str], baseline: str, name: str, figure: str
) -> str:
    """Figure, table and how to read them, as Markdown; ``figure`` is its path from there."""
    table = comparison_markdown(comparison, labels, baseline)
    return PAGE.format(name=name, figure=figure, table=table, baseline=labels[baseline])


def comparison_markdown(comparison: pd.DataFrame, labels: Mapping[str, str], baseline: str) -> str:
    """The table in the form of a paper."""
    lines, notes = [], Footnotes()
    for row in comparison.to_dict("records"):
        line = {
            "method": labels[str(row["run"])],
            "steps": f"{row['step']:,}",
            "seeds": str(row["seeds"]),
        }
        for metric, name in (("fid", "FID"), ("is", "IS")):
            if f"{metric}_mean" in row:
                line[name] = (
                    f"{row[f'{metric}_mean']:.2f}"
                    + _unless_nan(" ± {:.2f}", row[f"{metric}_std"])
                    + notes.marks(texts_in(row[f"{metric}_cautions"]))
                )
                interval = _unless_nan(
                    " [{:+.2f}, {:+.2f}]", row[f"{metric}_low"], row[f"{metric}_high"]
                )
                change = _unless_nan("{:+.2f}", row[f"{metric}_difference"]) + interval
                line[f"Δ{name} [95 %]"] = "" if row["run"] == baseline else change
        if "speed_up" in row:
            reached = _unless_nan("{:,.0f} ({:.2f}x)", row["steps_to_baseline"], row["speed_up"])
            line[f"steps to {labels[baseline]}'s last FID"] = reached or "not reached"
        line |= {
            "cost of a step": f"{row['cost_per_step']:.2f}x",
            "hours, teachers included": f"{row['hours']:.3g}",
        }
        lines.append(line)
    text = markdown_table(pd.DataFrame(lines), index=False, disable_numparse=True)
    return f"{text}\n{notes}"


def _unless_nan(pattern: str, *values: float) -> str:
    return "" if any(map(isnan, values)) else pattern.format(*values)
