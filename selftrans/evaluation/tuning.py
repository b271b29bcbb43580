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
    steps: Mapping[str, int],
    values: Mapping[str, Sequence[Mapping[str, object]]],
    definitions: Mapping[str, str],
) -> dict[str, TunedArm]:
    """The trial of each arm with the least mean FID at its last checkpoint.

    Of equal ones the first.

    Args:
        fids: FIDs of one sampler.
        arms: the runs of each arm's trials, in order.
        seeds: that every trial was trained with.
        steps: of a training of each arm.
        values: for each arm, the tuned keys as each trial has them.
        definitions: digest of what else defines each arm.

    Raises:
        UserError: a trial has no FID of a seed at its last step: then arms were not tuned alike.
    """
    best = {}
    for arm, trials in arms.items():
        means = []
        for run in trials:
            last = fids.get(run, {}).get(steps[arm], {})
            if missing := sorted(set(seeds) - last.keys()):
                raise UserError(f"run {run!r}: has no FID of seed {missing[0]} at {steps[arm]}")
            means.append(fmean(last[seed] for seed in seeds))
        number = means.index(min(means))
        best[arm] = TunedArm(
            trial=number,
            fids=tuple(means),
            values=dict(values[arm][number]),
            definition=definitions[arm],
        )
    return best


def at_an_edge(
    best: Mapping[str, TunedArm], values: Mapping[str, Sequence[Mapping[str, object]]]
) -> list[str]:
    """A line for each number that is best for an arm where nothing beyond it was tried.

    Args:
        best: the trials that were found.
        values: for each arm, the tuned keys as each trial has them.
    """
    found = []
    for arm, trial in best.items():
        for key, value in trial.values.items():
            tried = {one[key] for one in values[arm]}
            numbers = [one for one in tried if isinstance(one, (int, float))]
            if len(numbers) == len(tried) > 1 and value in (min(numbers), max(numbers)):
                which = "least" if value == min(numbers) else "largest"
                found.append(f"{arm}: {key}: the best, {value}, is the {which} that was tried")
    return found
