"""The table of planned comparisons: ``significance.csv``, and a page of it."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import exp, isfinite, isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from selftrans.evaluation.bootstrap import Floats, interval_around
from selftrans.evaluation.cautions import Footnotes, caution_cell, caution_texts, texts_in
from selftrans.evaluation.comparison import (
    Curves,
    mean_and_std,
    mean_interval,
    paired_difference,
)
from selftrans.evaluation.markdown import markdown_table
from selftrans.evaluation.significance import (
    LEVEL,
    REACHED,
    Costs,
    Pair,
    holm,
    least_p,
    log_area,
    reached_level,
    sign_flip_p,
)
from selftrans.evaluation.tables import read_table
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields

COLUMNS = (
    "run", "against", "tested", "seeds", "first_step", "step",
    "fid", "fid_std", "fid_low", "fid_high",
    "fid_difference", "fid_difference_low", "fid_difference_high",
    "area_difference", "area_difference_low", "area_difference_high", "p", "p_holm", "least_p",
    *(f"{name}{end}" for name in REACHED for end in ("", "_low", "_high")), "seconds", "cautions",
)  # fmt: skip
"""Of ``significance.csv``."""


def significance_table(
    fids: Curves,
    costs: Costs,
    planned: Sequence[Pair],
    baseline: str,
    resampled: Mapping[str, Mapping[int, Floats]] | None = None,
    cautions: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """A row for the baseline, for each planned comparison, and for each run that has none.

    Args:
        fids: the FIDs of one sampler.
        costs: seconds.
        planned: the family of comparisons that are tested.
        baseline: the run that runs without a planned comparison are compared with.
        resampled: ``resampled_fids`` of the last checkpoint of each run and seed, if they are made.
        cautions: ``fid_cautions``.

    Raises:
        UserError: the baseline has no FID; or a planned comparison lacks that of a seed at a
            checkpoint, which the other run has: left out, the seed would choose what is tested.
    """
    if baseline not in fids:
        raise UserError(f"the baseline, run {baseline!r}, has no FID")
    for pair in planned:
        _require_pairs(fids, pair)
    in_family = {run for run, _ in planned} | {baseline}
    others = [(run, baseline) for run in fids if run not in in_family]
    rows = [_row(fids, costs, pair, resampled or {}) for pair in (*planned, *others)]
    adjusted = holm([row["p"] for row in rows[: len(planned)]])
    for row, p in zip(rows, adjusted, strict=False):
        row.update(tested=True, p_holm=p)
    for row in rows[len(planned) :]:
        row.update(tested=False, p=nan, least_p=nan)
    head = {"run": baseline, "against": "", "tested": False}
    head |= _last_checkpoint(fids, costs, baseline, resampled or {})
    for row in (head, *rows):
        texts = [(cautions or {}).get(row[side], ()) for side in ("run", "against")]
        row["cautions"] = caution_cell(dict.fromkeys(chain(*texts)))
    return pd.DataFrame([head, *rows])[[*COLUMNS]]


def fid_cautions(table: pd.DataFrame) -> dict[str, list[str]]:
    """For each run of ``metrics.csv``, why its FIDs cannot be trusted."""
    return {
        str(run): caution_texts(rows.to_dict("records"), ["fid"])
        for run, rows in table[table["fid"].notna()].groupby("run")
    }


def _require_pairs(fids: Curves, pair: Pair) -> None:
    """Both runs of a comparison have the same seeds, at every checkpoint that both have."""
    mine, theirs = (fids.get(run, {}) for run in pair)
    for step in sorted(mine.keys() & theirs.keys()):
        for run, own, others in zip(pair, (mine, theirs), (theirs, mine), strict=True):
            if missing := sorted(others[step].keys() - own[step].keys()):
                raise UserError(f"run {run!r}: has no FID of seed {missing[0]} at step {step}")


def _row(
    fids: Curves, costs: Costs, pair: Pair, resampled: Mapping[str, Mapping[int, Floats]]
) -> dict[str, Any]:
    """A comparison over the seeds and checkpoints that both runs have."""
    run, against = pair
    steps = sorted(fids.get(run, {}).keys() & fids[against].keys())
    both = [fids[one][step].keys() for one in pair for step in steps]
    seeds = sorted(set.intersection(*map(set, both))) if both else []
    areas = [
        [log_area({step: fids[one][step][seed] for step in steps}) for seed in seeds]
        for one in pair
    ]
    differences = [mine - theirs for mine, theirs in zip(*areas, strict=True)]
    row = dict.fromkeys(COLUMNS, nan)
    row |= _with_ends("area_difference", mean_interval(differences))
    row |= {"p": sign_flip_p(differences), "least_p": least_p(len(seeds))}
    if seeds:
        row |= _last_checkpoint(fids, costs, run, resampled)
        last = paired_difference(fids, "fid", against, run, steps[-1])
        row |= _with_ends("fid_difference", (last.difference, last.low, last.high))
        row |= reached_level(fids, costs, pair, seeds)
        row["first_step"] = steps[0]
    return row | {"run": run, "against": against, "seeds": len(seeds)}


def _with_ends(name: str, values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _last_checkpoint(
    fids: Curves, costs: Costs, run: str, resampled: Mapping[str, Mapping[int, Floats]]
) -> dict[str, Any]:
    """A run's FID at its last checkpoint, over all its seeds, and the time of its whole training.

    The interval is that of the mean over seeds, if other images had been sampled.
    """
    step = max(fids[run])
    values = fids[run][step]
    fid, std = mean_and_std(values.values())
    ends = (nan, nan)
    if values.keys() <= resampled.get(run, {}).keys():
        means = np.mean([resampled[run][seed] for seed in values], axis=0)
        ends = interval_around(fid, means)
    spent = costs.seconds[run][step]
    seconds = fmean(spent[seed] + costs.before[run][seed] for seed in values)
    row = {"step": step, "seeds": len(values), "fid": fid, "fid_std": std, "seconds": seconds}
    return row | {"fid_low": ends[0], "fid_high": ends[1]}


# -- what it is made from


def read_resampled(path: Path) -> Floats:
    """FIDs of resampled sets.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    fids = read_fields(path, fids=list)["fids"]
    if not fids or not all(isinstance(fid, float) and isfinite(fid) for fid in fids):
        raise UserError(f"{path}: damaged, its FIDs are not finite numbers")
    return np.array(fids, np.float64)


def measured_seconds(benchmarks: Sequence[str]) -> float:
    """Wall time of jobs by a workflow's records of them; nan where a record is absent."""
    paths = list(map(Path, benchmarks))
    if not all(path.exists() for path in paths):
        return nan
    return sum(float(read_table(path, "s", sep="\t")["s"].iloc[0]) for path in paths)


# -- the page

PAGE = """# {name}: what is more than chance

![For each comparison the relative FID over the training, and how soon the opponent's FID is \
reached]({figure})

{table}
{family}

{tuning}

FID: mean over the seeds at the last checkpoint; in brackets, its 95 % interval if other images had
been sampled ({resamples}). FID over training: the one number that is tested. It is the
area under the curve of log FID from the first checkpoint to the last, as a relative difference on
geometric mean, over pairs of the same seed, with its 95 % confidence interval (Student's t, not
corrected for the number of comparisons). p: sign-flip permutation test, two-sided; Holm: the same,
corrected for {planned}.

Speed-up: the opponent's steps over those in which the run's mean FID first reaches the opponent's
last one, interpolated along its logarithm. "At least": it is there at its first checkpoint. In
time: with that of teachers and encoders trained here. A training on one thread of a CPU counts the
processor's time. Any other counts the wall's, with the jobs beside it, and so does an encoder, with
the start of its process. Intervals are percentiles over resampled seeds. Hours are those of a whole
training, with that of its teachers and encoders.
{notes}"""


TUNED = """The arms have the values that `{tuned}` found best for them, on other seeds. A p-value is
of the methods with these values: that another tuning would have found others is not in it."""
UNTUNED = """The arms have the values of the experiment file. A p-value is of the methods with these
values."""


def significance_page(
    table: pd.DataFrame,
    labels: Mapping[str, str],
    name: str,
    figure: str,
    resamples: int,
    encoders: Mapping[str, str],
    tuned: str,
) -> str:
    """Figure, table and how to read them, as Markdown.

    Args:
        table: ``significance_table``.
        labels: the runs' names.
        name: of the experiment.
        figure: its path from the page.
        resamples: of the images of each set; 0 if there are none.
        encoders: for each encoder, in words, what it is and what its time includes.
        tuned: the experiment that tuned the arms, with its seal; empty if none did.
    """
    notes = "".join(f"\nEncoder *{encoder}*: {words}.\n" for encoder, words in encoders.items())
    return PAGE.format(
        name=name,
        figure=figure,
        table=significance_markdown(table, labels),
        family=family_sentences(table),
        tuning=TUNED.format(tuned=tuned) if tuned else UNTUNED,
        resamples=f"{resamples:,} resamples of each set" if resamples else "not computed here",
        planned=_comparisons(int(table["tested"].sum())),
        notes=notes,
    )


def family_sentences(table: pd.DataFrame) -> str:
    """How many comparisons are tested, and what p-values they can attain at best."""
    tested = table[table["tested"]]
    if tested.empty:
        return "No comparison is tested."
    count, least = len(tested), float(tested["least_p"].min())
    seeds = " to ".join(map(str, sorted({int(tested["seeds"].min()), int(tested["seeds"].max())})))
    corrected = min(1.0, count * least)
    verdict = "can" if corrected < LEVEL else "**cannot**"
    return (
        f"{_comparisons(count)} planned, {seeds} pairs each. The least attainable p is {least:.3g},"
        f" and {corrected:.3g} after Holm's correction for {count}: the smallest p of this family"
        f" {verdict} fall below {LEVEL:.2g}."
    )


def _comparisons(count: int) -> str:
    return f"{count} comparison{'' if count == 1 else 's'}"


def significance_markdown(table: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """The table in the form of a paper."""
    lines, notes = [], Footnotes()
    for row in table.to_dict("records"):
        fid = _cell(row, "fid", "{:.2f}")
        area = _cell(row, "area_difference", "{:+.1%}", relative)
        marks = notes.marks(texts_in(row["cautions"]) if fid else ())
        against = str(row["against"])
        lines.append(
            {
                "run": labels[str(row["run"])],
                "against": labels.get(against, ""),
                "seeds": str(row["seeds"]),
                "FID [95 %]": fid + marks,
                "FID over training [95 %]": area + (marks if area else ""),
                "p": p_text(row["p"]),
                "Holm": p_text(row["p_holm"]),
                "speed-up in steps [95 %]": _cell(row, "speed_up", "{:.2f}x"),
                "in time, all included [95 %]": _cell(row, "time_ratio", "{:.2f}x"),
                "hours": "unknown" if isnan(row["seconds"]) else f"{row['seconds'] / 3600:.3g}",
            }
        )
    text = markdown_table(pd.DataFrame(lines), index=False, disable_numparse=True)
    return f"{text}\n{notes}"


def relative(log_ratio: float) -> float:
    """The relative difference that a difference of logarithms stands for."""
    return exp(log_ratio) - 1


def p_text(p: float) -> str:
    """A p-value with two significant digits; empty for nan."""
    return "" if isnan(p) else f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def _cell(
    row: Mapping[Any, Any], name: str, pattern: str, shown: Callable[[float], float] = float
) -> str:
    """A value and its interval, as far as they are known."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if isnan(value):
        return ""
    is_ratio = name in ("speed_up", "time_ratio")

    def text(number: float) -> str:
        return "not reached" if is_ratio and not number else pattern.format(shown(number))

    at_once = is_ratio and row["steps_to_level"] <= row["first_step"]
    said = f"{'at least ' if at_once else ''}{text(value)}"
    if isnan(low) or isnan(high) or (is_ratio and not high):
        return said
    return f"{said} [{text(low)}, {text(high)}]"
