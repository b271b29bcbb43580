"""Comparable ratios: both sides in one process, interleaved, medians, equal thread counts."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch

REPETITIONS = 7
WIDEST = 0.25
"""Spread of a side's repetitions beyond which a ratio is not printed."""


class Seconds(float):
    """The median of repetitions, which knows how far these lie apart."""

    spread: float
    """Between their quartiles, over the median."""

    def __new__(cls, repetitions: Sequence[float]) -> Self:
        """Of the seconds of each repetition."""
        seconds = super().__new__(cls, statistics.median(repetitions))
        low, _, high = statistics.quantiles(repetitions, n=4)
        seconds.spread = (high - low) / seconds
        return seconds


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table: ``ratio`` is how many times better ours is."""

    name: str
    ours: float
    baseline: float
    ratio: float
    unit: str
    note: str
    sides: tuple[Seconds, ...] = ()
    """What it was computed from, where that was timed in turns."""
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """Of the machine over the last minute."""

    @property
    def spread(self) -> float:
        """The widest of the sides'."""
        return max((side.spread for side in self.sides), default=0.0)

    @property
    def is_steady(self) -> bool:
        """Whether the ratio may be printed."""
        return self.spread <= WIDEST

    def to_json(self) -> dict[str, Any]:
        """The entry in the results file, without a ratio where it was too unsteady."""
        return {
            "name": self.name,
            "ours": self.ours,
            "baseline": self.baseline,
            "ratio": self.ratio if self.is_steady else None,
            "unit": self.unit,
            "note": self.note,
            "spread": self.spread,
            "load": self.load,
        }

    def line(self) -> str:
        """The row on the terminal."""
        ratio = f"{self.ratio:.3g}" if self.is_steady else "unsteady"
        return (
            f"{self.name:34} {self.ours:12.5g} {self.baseline:12.5g} {ratio:>8} {self.spread:7.0%}"
            f" {self.load:5.1f}  {self.unit}"
        )


HEADER = f"{'name':34} {'ours':>12} {'baseline':>12} {'ratio':>8} {'spread':>7} {'load':>5}  unit"


def interleaved(*sides: Callable[[], object], repetitions: int = REPETITIONS) -> list[Seconds]:
    """Median seconds of each side, run in turns after one warm-up round."""
    seconds: list[list[float]] = [[] for _ in sides]
    for repetition in range(repetitions + 1):
        for side, times in zip(sides, seconds, strict=True):
            started = time.perf_counter()
            side()
            if repetition:
                times.append(time.perf_counter() - started)
    return list(map(Seconds, seconds))


def faster(
    name: str,
    ours: Callable[[], object],
    baseline: Callable[[], object],
    note: str,
    repetitions: int = REPETITIONS,
) -> Result:
    """How many times as fast ours is."""
    own, other = interleaved(ours, baseline, repetitions=repetitions)
    return Result(
        name=name, ours=own, baseline=other, ratio=other / own, unit="s", note=note,
        sides=(own, other),
    )  # fmt: skip


def repeated(count: int, call: Callable[[], object]) -> Callable[[], None]:
    """The same call several times."""

    def calls() -> None:
        for _ in range(count):
            call()

    return calls


def matmul_rate(rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    """FLOP per second of a bare matrix product, of which there are some seconds."""
    a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    (seconds,) = interleaved(repeated(20, lambda: a @ b), repetitions=20)
    return 20 * 2 * rows * inner * columns / seconds
