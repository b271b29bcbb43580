"""Whether runs differ by more than chance: paired by seed, tested, corrected for their number.

The one number that is tested is fixed in advance: the area under the curve of log FID over the
steps. Its difference is the logarithm of a ratio: exp(-0.1) is an FID that is lower by a tenth, on
geometric mean from the first checkpoint to the last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan, log, nan

import numpy as np
from numpy.typing import NDArray

from selftrans.evaluation.bootstrap import TAILS
from selftrans.evaluation.comparison import (
    CONFIDENCE,
    Curves,
    steps_to_reach,
    total_seconds,
)
from selftrans.runtime.random import Stream, generator

LEVEL = 1 - CONFIDENCE
"""p-values below it are called significant."""
EXACT = 20
"""Pairs up to which every vector of signs is counted."""
RANDOM_SIGNS = 100_000
"""Vectors of signs that are drawn beyond."""
RESAMPLES = 2000
"""How often seeds are resampled for the intervals of speed-ups."""
ROUNDING = 1e-12
"""Of sums of differences, over the sum of their magnitudes."""

Floats = NDArray[np.float64]
Curve = Mapping[int, float]
Pair = tuple[str, str]
"""A run, and the one that it is compared with."""


def log_area(curve: Curve) -> float:
    """Area under log FID over the steps, over their range: the mean log FID by trapezoids.

    Of a single step, its log FID. nan where an FID is 0.
    """
    steps = sorted(curve)
    if not all(curve[step] > 0 for step in steps):
        return nan
    logs = [log(curve[step]) for step in steps]
    if len(steps) == 1:
        return logs[0]
    return float(np.trapezoid(logs, steps)) / (steps[-1] - steps[0])


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value of the sign-flip permutation test of paired differences.

    If the runs do not differ, each difference is as likely with either sign (Fisher 1935, section
    21). p is the share of all 2^n vectors of signs whose sum is at least as far from 0 as the
    observed one; beyond ``EXACT`` pairs, of random ones and the observed one (Phipson & Smyth
    2010). nan without a pair, or of differences that are not finite.
    """
    values = np.asarray(differences, np.float64)
    if not len(values) or not np.isfinite(values).all():
        return nan
    least = abs(values.sum()) - ROUNDING * np.abs(values).sum()
    if len(values) > EXACT:
        rng = generator(seed, Stream.SIGNS)
        beyond = sum(
            int((np.abs(rng.choice((-1.0, 1.0), (1000, len(values))) @ values) >= least).sum())
            for _ in range(RANDOM_SIGNS // 1000)
        )
        return (beyond + 1) / (RANDOM_SIGNS + 1)
    sums = np.abs(values[:1])  # a vector and its opposite are equally far
    for value in values[1:]:
        sums = np.concatenate((sums + value, sums - value))
    return float((np.abs(sums) >= least).mean())


def least_p(pairs: int) -> float:
    """The least p-value that ``sign_flip_p`` can attain; nan without a pair."""
    if not pairs:
        return nan
    return 2.0 ** (1 - pairs) if pairs <= EXACT else 1 / (RANDOM_SIGNS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that are corrected for their number (Holm 1979), in their order.

    They control the probability of any false rejection, however the tests depend on each other.
    A test that could not be made (nan) counts among the tests, and stays nan.
    """
    adjusted, floor = [nan] * len(p_values), 0.0
    known = [number for number, p in enumerate(p_values) if not isnan(p)]
    for rank, number in enumerate(sorted(known, key=lambda number: p_values[number])):
        floor = max(floor, min(1.0, p_values[number] * (len(p_values) - rank)))
        adjusted[number] = floor
    return adjusted


# -- cost


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds that the runs take: trainings by ``training_clock``, encoders by the wall's."""

    seconds: Curves
    """Of each training up to a checkpoint."""
    before: Mapping[str, Mapping[int, float]]
    """What each run and seed needs before its first step: teachers, encoders."""

    @classmethod
    def of(
        cls,
        seconds: Curves,
        teachers: Mapping[str, Sequence[tuple[str, int]]],
        encoders: Mapping[str, float],
    ) -> "Costs":
        """Costs from each run's own seconds, its teachers, and its encoders' seconds.

        A training or an encoder counts once for each run that needs it. What is not known is nan.
        """
        before = {}
        for run, steps in total_seconds(seconds, teachers).items():
            first = min(steps)
            before[run] = {
                seed: total - seconds[run][first][seed] + encoders.get(run, 0.0)
                for seed, total in steps[first].items()
            }
        return cls(seconds=seconds, before=before)


REACHED = ("steps_to_level", "speed_up", "seconds_to_level", "time_ratio")
"""Columns that ``reached_level`` fills, each with its ``_low`` and ``_high``."""


def reached_level(
    fids: Curves, costs: Costs, pair: Pair, seeds: Sequence[int], resamples: int = RESAMPLES
) -> dict[str, float]:
    """When a run reaches its opponent's last mean FID, with 95 % intervals.

    In steps and in time, with that of teachers and encoders; and the opponent's over these.
    Mean curves are compared, as in ``comparison.speed_ups``. The intervals are percentiles over
    resamples of the seeds, pairs together. Infinite where the level is not reached.

    Args:
        fids: FIDs of one sampler.
        costs: seconds.
        pair: the run, and its opponent.
        seeds: those that both have.
        resamples: of the seeds.
    """
    chosen = np.arange(len(seeds))[None]
    if len(seeds) > 1:
        drawn = generator(0, Stream.BOOTSTRAP).integers(len(seeds), size=(resamples, len(seeds)))
        chosen = np.concatenate((chosen, drawn))
    mine, theirs = (_means(fids[one], seeds, chosen) for one in pair)
    last = max(theirs)
    time, opponents = (_time_spent(costs, one, seeds, chosen) for one in pair)
    found = np.empty((len(chosen), len(REACHED)))
    for number, level in enumerate(theirs[last]):
        steps = steps_to_reach({step: means[number] for step, means in mine.items()}, level)
        if isnan(steps):
            found[number] = inf, 0, inf, 0
            continue
        seconds, reference = (np.interp(at, *one[number]) for at, one in
                              ((steps, time), (last, opponents)))  # fmt: skip
        found[number] = steps, last / steps, seconds, reference / seconds
    columns: dict[str, float] = {}
    for name, values in zip(REACHED, found.T, strict=True):
        known = len(values) > 1 and not np.isnan(values).any()
        ends = np.quantile(values[1:], TAILS, method="inverted_cdf") if known else (nan, nan)
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), (values[0], *ends), strict=True))
    return columns


def _means(
    steps: Mapping[int, Mapping[int, float]], seeds: Sequence[int], chosen_RS: NDArray[np.int64]
) -> dict[int, Floats]:
    """Means over each choice of seeds, (R,), at the steps that all seeds have."""
    return {
        step: np.array([values[seed] for seed in seeds])[chosen_RS].mean(axis=1)
        for step, values in sorted(steps.items())
        if all(seed in values for seed in seeds)
    }


def _time_spent(
    costs: Costs, run: str, seeds: Sequence[int], chosen_RS: NDArray[np.int64]
) -> list[tuple[list[int], Floats]]:
    """For each choice of seeds, steps and the mean seconds up to them, from step 0."""
    before = _means({0: costs.before[run]}, seeds, chosen_RS)[0]
    own = _means(costs.seconds[run], seeds, chosen_RS)
    times = np.stack([before, *(before + means for means in own.values())], axis=1)
    return [([0, *own], row) for row in times]
