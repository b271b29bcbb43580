"""What a training reaches: images and operations per second, waiting for data, memory.

Nothing here waits for the device, but for the last call. None of it changes the training.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch

from selftrans.config import ExperimentConfig, Precision
from selftrans.runtime.cards import stated_rates
from selftrans.runtime.machine import peak_resident_bytes
from selftrans.training.work import segment_work, work_seconds

GIB = 2**30
T = TypeVar("T")


class Reached(NamedTuple):
    """What a training reached over some steps."""

    images_per_second: float
    """Over all processes."""
    tflops: float
    """TFLOP/s of each of them, by the counts that plans rest on."""
    share_of_stated_rate: float | None
    """What the work takes at the rates that the card's manufacturer states, over what it took; None
    where none are stated."""
    data_wait_seconds: float
    """That the first process waited for its next batch."""
    peak_memory_gib: float
    """The first process's peak: allocated on its GPU; on a CPU, its resident memory so far."""


class Throughput:
    """Counts what a training reaches, over logging intervals and since it began.

    Args:
        experiment, run: what is trained.
        precision: that is used.
        device: of this process.
        processes: that share a batch.
        step: where this attempt begins.
    """

    def __init__(
        self,
        experiment: ExperimentConfig,
        run: str,
        *,
        precision: Precision,
        device: torch.device,
        processes: int,
        step: int,
    ) -> None:
        settings = experiment.runs[run]
        training = settings.training.model_copy(update={"precision": precision})
        self._experiment = experiment
        self._run = settings.model_copy(update={"training": training})
        self._device, self._processes = device, processes
        on_gpu = device.type == "cuda"
        self._rates = stated_rates(torch.cuda.get_device_name(device)) if on_gpu else None
        self._first = self._closed = step
        self._started = self._closed_at = time.monotonic()
        self._waited = self._waited_before = 0.0
        self._peak = 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time that each is waited for is added up."""
        iterator = iter(batches)
        while True:
            started = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited += time.monotonic() - started
            yield batch

    def close_interval(self, step: int) -> Reached:
        """What was reached since the last call; right after the host has read a result of ``step``.

        The next interval's peak of memory begins here.
        """
        now = time.monotonic()
        seconds, waited = now - self._closed_at, self._waited - self._waited_before
        reached = self._reached(self._closed, step, seconds, waited, self._peak_memory())
        self._closed, self._closed_at, self._waited_before = step, now, self._waited
        return reached

    def total(self, step: int) -> Reached | None:
        """What this attempt reached up to ``step``, saves included; None if it made no step.

        Waits for the device.
        """
        if step == self._first:
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.monotonic() - self._started
        self._peak_memory()
        return self._reached(self._first, step, seconds, self._waited, self._peak)

    def _reached(
        self, first: int, last: int, seconds: float, waited: float, peak: float
    ) -> Reached:
        work = segment_work(self._experiment, self._run, first, last)
        of_one = {arithmetic: flop / self._processes for arithmetic, flop in work.items()}
        share = None if self._rates is None else work_seconds(of_one, self._rates) / seconds
        return Reached(
            images_per_second=(last - first) * self._run.training.batch_size / seconds,
            tflops=sum(of_one.values()) / seconds / 1e12,
            share_of_stated_rate=share,
            data_wait_seconds=waited,
            peak_memory_gib=peak,
        )

    def _peak_memory(self) -> float:
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device) / GIB
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            peak = peak_resident_bytes() / GIB
        self._peak = max(self._peak, peak)
        return peak
