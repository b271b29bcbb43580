"""The comparison of runs: paired by seed, against steps and against what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, log, nan, sqrt
from statistics import fmean, stdev

import pandas as pd
from scipy import stats

from selftrans.evaluation.tables import METRIC_NAMES

CONFIDENCE = 0.95
Curves = dict[str, dict[int, dict[int, float]]]
"""A metric by run, step and seed."""


def curves_of(table: pd.DataFrame, metric: str) -> Curves:
    """A metric of one sampler's rows of ``metrics.csv``, in their order."""
    curves: Curves = {}
    for run, step, seed, value in table[["run", "step", "seed", metric]].itertuples(index=False):
        if not isnan(value):
            curves.setdefault(str(run), {}).setdefault(int(step), {})[int(seed)] = float(value)
    return curves


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """A run at a step against the baseline, over pairs of the same seed."""

    run: str
    step: int
    metric: str
    seeds: int
    mean: float
    """Of the run itself."""
    std: float
    """Of the run itself, over its seeds."""
    difference: float
    """Mean over the pairs."""
    low: float
    """Lower end of the confidence interval of that mean: Student's t over the seeds; not a number for a single one."""
    high: float
    """Its upper end."""


def paired_differences(curves: Curves, metric: str, baseline: str) -> list[PairedDifference]:
    """Every run at every step that the baseline was measured at, too, in order."""
    found = []
    for run, steps in curves.items():
        for step, values in steps.items():
            others = curves[baseline].get(step, {})
            pairs = [value - others[seed] for seed, value in values.items() if seed in others]
            if not pairs:
                continue
            half, mean = nan, fmean(pairs)
            if len(pairs) > 1:
                half = (
                    float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(pairs) - 1))
                    * stdev(pairs)
                    / sqrt(len(pairs))
                )
            own = list(values.values())
            found.append(
                PairedDifference(
                    run=run, step=step, metric=metric, seeds=len(pairs), mean=fmean(own),
                    std=stdev(own) if len(own) > 1 else nan, difference=mean, low=mean - half, high=mean + half,
                )
            )  # fmt: skip
    return found


def paired_table(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """``paired_differences`` of every metric in one sampler's rows of ``metrics.csv``."""
    rows = [
        asdict(found)
        for metric in METRIC_NAMES
        if metric in table
        for found in paired_differences(curves_of(table, metric), metric, baseline)
    ]
    return pd.DataFrame(rows)


def total_seconds(seconds: Curves, teachers: Mapping[str, Sequence[tuple[str, int]]]) -> Curves:
    """Wall time up to every checkpoint with that of its teachers, and of theirs; one training counts once, up to its last use.

    Args:
        seconds: wall time of each training up to a checkpoint, over all its attempts.
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
    """The step at which a falling curve first is at ``level``, along its logarithm between checkpoints.

    Its first step, if it is there from the start; not a number, if it never is.
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


def comparison_table(
    table: pd.DataFrame,
    seconds: Curves,
    teachers: Mapping[str, Sequence[tuple[str, int]]],
    baseline: str,
) -> pd.DataFrame:
    """One row for each run at its last checkpoint: FID and IS, the paired differences, speed-up in steps, cost.

    Args:
        table: one sampler's rows of ``metrics.csv``.
        seconds: wall time of each training up to a checkpoint.
        teachers: for each run, the run and step of every teacher.
        baseline: the run that the others are compared with.
    """
    metrics = {metric: curves_of(table, metric) for metric in ("fid", "is") if metric in table}
    first = next(iter(metrics.values()))
    paired = {
        (metric, found.run, found.step): asdict(found)
        for metric, curves in metrics.items()
        for found in paired_differences(curves, metric, baseline)
    }
    total = total_seconds(seconds, teachers)
    last_of_baseline = max(first[baseline])
    per_step = mean_curve(seconds[baseline])[last_of_baseline] / last_of_baseline
    rows = []
    for run, steps in first.items():
        step = max(steps)
        row: dict[str, object] = {"run": run, "step": step, "seeds": len(steps[step])}
        for metric, curves in metrics.items():
            metadata, own = paired.get((metric, run, step), {}), list(curves[run][step].values())
            row |= {
                f"{metric}_mean": fmean(own),
                f"{metric}_std": stdev(own) if len(own) > 1 else nan,
            }
            row |= {
                f"{metric}_{key}": metadata.get(key, nan) for key in ("difference", "low", "high")
            }
        if "fid" in metrics:
            curves = metrics["fid"]
            reached = steps_to_reach(
                mean_curve(curves[run]), mean_curve(curves[baseline])[last_of_baseline]
            )
            row |= {"steps_to_baseline": reached, "speed_up": last_of_baseline / reached}
        spent = mean_curve(seconds[run])[step]
        row |= {"seconds_per_step": spent / step, "cost_per_step": spent / step / per_step}
        rows.append(row | {"hours": mean_curve(total[run])[step] / 3600})
    return pd.DataFrame(rows)


PAGE = """# {name}: the comparison

![FID and inception score against optimizer steps and against training time](figures/comparison.png)

{table}
Last checkpoint of every run; mean ± standard deviation over its seeds. Δ: mean difference from {baseline} over pairs of the
same seed, with its 95 % confidence interval (Student's t). Steps: where the mean FID first is at {baseline}'s last, read
along its logarithm. The cost of a step is its wall time over {baseline}'s, as the jobs ran, with whatever else ran beside
them; hours include those of teachers trained here, but neither an encoder's training nor its extraction of features.
"""


def comparison_page(
    comparison: pd.DataFrame, labels: Mapping[str, str], baseline: str, name: str
) -> str:
    """Figure, table and how to read them, as Markdown."""
    table = comparison_markdown(comparison, labels, baseline)
    return PAGE.format(name=name, table=table, baseline=labels[baseline])


def comparison_markdown(comparison: pd.DataFrame, labels: Mapping[str, str], baseline: str) -> str:
    """The table as a reader would put it in a paper."""
    lines = []
    for row in comparison.to_dict("records"):
        line = {
            "method": labels[str(row["run"])],
            "steps": f"{row['step']:,}",
            "seeds": str(row["seeds"]),
        }
        for metric, name in (("fid", "FID"), ("is", "IS")):
            if f"{metric}_mean" in row:
                line[name] = f"{row[f'{metric}_mean']:.2f}" + _unless_nan(
                    " ± {:.2f}", row[f"{metric}_std"]
                )
                interval = _unless_nan(
                    " [{:+.2f}, {:+.2f}]", row[f"{metric}_low"], row[f"{metric}_high"]
                )
                change = _unless_nan("{:+.2f}", row[f"{metric}_difference"]) + interval
                line[f"Δ{name} [95 %]"] = "" if row["run"] == baseline else change
        if "speed_up" in row:
            reached = _unless_nan("{:,.0f} ({:.2f}x)", row["steps_to_baseline"], row["speed_up"])
            line[f"steps to {labels[baseline]}'s last FID"] = reached or "never"
        line |= {
            "cost of a step": f"{row['cost_per_step']:.2f}x",
            "hours, teachers included": f"{row['hours']:.3g}",
        }
        lines.append(line)
    return str(pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)) + "\n"


def _unless_nan(pattern: str, *values: float) -> str:
    return "" if any(map(isnan, values)) else pattern.format(*values)
