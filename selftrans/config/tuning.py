"""Tuning under one budget for every arm, and what is read from it.

An experiment with ``tuning`` trains each arm several times: as its file has it, and with sampled
values. What is best for each arm is written to ``experiments/tuned/NAME.yaml``; an experiment on
other seeds reads it by ``tuned: NAME``.
"""

import hashlib
from collections.abc import Mapping
from itertools import product
from math import exp, log
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from selftrans.config.base import ConfigModel, Name, PositiveFloat, PositiveInt, Seed


class LogRange(ConfigModel):
    """A range that values are drawn from, evenly in their logarithm."""

    low: PositiveFloat
    """Its lower end."""
    high: PositiveFloat
    """Its upper end."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"high: {self.high} is not beyond low, {self.low}")
        return self

    def value(self, share: float) -> float:
        """The value at a share of the range, to three digits."""
        return float(f"{exp(log(self.low) + share * (log(self.high) - log(self.low))):.3g}")


class TuningConfig(ConfigModel):
    """What every arm is tuned in, alike; seeds and budget are the experiment's own."""

    trials: Annotated[int, Field(ge=2, le=1000)]
    """Trainings of each arm for each seed, the baseline included. The first is the arm as the
    file has it."""
    search: Literal["random", "grid"] = "random"
    """How the others are chosen: values at random, spread over their ranges, or all combinations
    of listed values."""
    ranges: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)] | LogRange],
                      Field(min_length=1)]  # fmt: skip
    """Keys of a run with the values that they may have, as a list or as `low` and `high`, for
    instance `training.learning_rate: {low: 5e-4, high: 4e-3}`. The baseline goes without those
    below `alignment`."""
    seed: Seed = 0
    """Of the random search."""

    @model_validator(mode="after")
    def _grid_has_as_many_cells(self) -> Self:
        if self.search == "random":
            return self
        if unlisted := [key for key, of in self.ranges.items() if isinstance(of, LogRange)]:
            raise ValueError(f"ranges: {unlisted[0]!r} has no list of values (a grid needs one)")
        if (cells := len(list(product(*self.ranges.values())))) != self.trials - 1:
            raise ValueError(f"trials: is {self.trials}, the grid has {cells} cells and the arm")
        return self

    def sampled(self) -> list[dict[str, Any]]:
        """The values of every trial but the first, by key: the same for every arm."""
        if self.search == "grid":
            cells = product(*self.ranges.values())
            return [dict(zip(self.ranges, cell, strict=True)) for cell in cells]
        drawn = {key: self._drawn(key) for key in self.ranges}
        return [{key: drawn[key][cell] for key in drawn} for cell in range(self.trials - 1)]

    def _drawn(self, key: str) -> list[Any]:
        """A key's values, a function of the seed, the key and the number of trials.

        One in each part of its range, in random order (Latin hypercube, McKay et al. 1979).
        """
        of, count = self.ranges[key], self.trials - 1
        order = sorted(range(count), key=lambda part: self._share(key, "order", part))
        shares = [(part + self._share(key, "value", part)) / count for part in order]
        if isinstance(of, LogRange):
            return [of.value(share) for share in shares]
        return [of[int(share * len(of))] for share in shares]

    def _share(self, *purpose: str | int) -> float:
        """A random number in [0, 1) that is a function of the seed and its purpose."""
        digest = hashlib.sha256("/".join(map(str, (self.seed, *purpose))).encode()).digest()
        return int.from_bytes(digest[:6]) / 2**48


class TunedArm(ConfigModel):
    """The best trial of an arm."""

    trial: Annotated[int, Field(ge=0)]
    """Its number; 0 is the arm as its file has it."""
    fids: Annotated[tuple[float, ...], Field(min_length=2)]
    """Mean FID over the seeds of every trial, in order: the least is that of the best."""
    values: dict[str, Any]
    """Keys of the run that were varied, as the best trial has them."""
    definition: str
    """Digest of what else defines the arm, but for its steps and seeds: it is reported as it was
    tuned."""


class Tuned(ConfigModel):
    """What a tuning found: `experiments/tuned/NAME.yaml`, without its seal."""

    experiment: Name
    """The experiment that tuned."""
    seeds: tuple[Seed, ...]
    """Its seeds, which are not reported on."""
    trials: PositiveInt
    """Of each arm and seed."""
    steps: dict[Name, PositiveInt]
    """Of a training of each arm."""
    runs: dict[Name, TunedArm]
    """The arms."""


class FollowedTuning(ConfigModel):
    """The tuning whose values the runs of a written-out experiment have."""

    experiment: Name
    """The experiment that tuned."""
    digest: str
    """Seal of the file that the values were read from."""


def trial_name(run: str, number: int) -> str:
    """The run of a trial of an arm."""
    return f"{run}-trial{number}" if number else run


def applicable(values: Mapping[str, Any], *, aligned: bool) -> dict[str, Any]:
    """Those of a trial's values that an arm has keys for: without alignment it has none below."""
    return {
        key: value for key, value in values.items() if aligned or not key.startswith("alignment.")
    }


def value_of(run: ConfigModel, key: str) -> Any:
    """A run's value of a key, as ``training.learning_rate``; a key of a list is a number."""
    value: Any = run.model_dump(mode="json")
    for part in key.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def taught_by_trial(alignment: Any, number: int) -> Any:
    """An alignment whose teachers are the trials of the same number."""
    if isinstance(alignment, list | tuple):
        return tuple(taught_by_trial(term, number) for term in alignment)
    teacher = alignment.get("teacher") if isinstance(alignment, Mapping) else None
    if not isinstance(teacher, Mapping) or not isinstance(teacher.get("run"), str):
        return alignment
    return {**alignment, "teacher": {**teacher, "run": trial_name(teacher["run"], number)}}
