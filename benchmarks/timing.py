"""Comparable ratios: both sides in one process, interleaved, medians, equal thread counts."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

REPETITIONS = 7


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table: ``ratio`` is how many times better ours is."""

    name: str
    ours: float
    baseline: float
    ratio: float
    unit: str
    note: str

    def to_json(self) -> dict[str, Any]:
        """The entry in the results file."""
        return asdict(self)


def interleaved(*sides: Callable[[], object], repetitions: int = REPETITIONS) -> list[float]:
    """Median seconds of each side, run in turns after one warm-up round."""
    seconds: list[list[float]] = [[] for _ in sides]
    for repetition in range(repetitions + 1):
        for side, times in zip(sides, seconds, strict=True):
            started = time.perf_counter()
            side()
            if repetition:
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in seconds]


def faster(
    name: str,
    ours: Callable[[], object],
    baseline: Callable[[], object],
    note: str,
    repetitions: int = REPETITIONS,
) -> Result:
    """How many times as fast ours is."""
    own, other = interleaved(ours, baseline, repetitions=repetitions)
    return Result(name=name, ours=own, baseline=other, ratio=other / own, unit="s", note=note)


def matmul_rate(
    rows: int, inner: int, columns: int, dtype: torch.dtype, seconds: float = 0.5
) -> float:
    """FLOP per second of bare matrix products of one shape."""
    a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    rates = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(rates) < REPETITIONS:
        started = time.perf_counter()
        a @ b
        rates.append(2 * rows * inner * columns / (time.perf_counter() - started))
    return statistics.median(rates)
