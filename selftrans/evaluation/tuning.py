"""The best trial of every arm."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from selftrans.config.tuning import TunedArm
from selftrans.evaluation.comparison import Curves
from selftrans.runtime.errors import UserError


def best_trials(
    fids: Curves,
    arms: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    values: Mapping[str, Sequence[Mapping[str, object]]],
) -> dict[str, TunedArm]:
    """The trial of each arm with the least mean FID at its last checkpoint.

    Of equal ones the first.

    Args:
        fids: FIDs of one sampler.
        arms: the runs of each arm's trials, in order.
        seeds: that every trial was trained with.
        values: for each arm, the keys that each trial changes.

    Raises:
        UserError: a trial lacks a seed: then arms were not tuned alike.
    """
    best = {}
    for arm, trials in arms.items():
        means = []
        for run in trials:
            last = fids[run][max(fids[run])] if run in fids else {}
            if missing := sorted(set(seeds) - last.keys()):
                raise UserError(f"run {run!r}: has no FID of seed {missing[0]}")
            means.append(fmean(last[seed] for seed in seeds))
        number = means.index(min(means))
        best[arm] = TunedArm(trial=number, fid=means[number], values=dict(values[arm][number]))
    return best
