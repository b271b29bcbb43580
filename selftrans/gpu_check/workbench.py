"""What every check has at hand: a device, sizes, a folder, a clock that waits for the device."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from selftrans.gpu_check.sizes import Sizes
from selftrans.runtime.machine import peak_resident_bytes

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """What every check has at hand."""

    device: torch.device
    sizes: Sizes
    directory: Path
    """Empty, for files of checks."""
    processes: int
    """That share a training; each has a GPU of its own where there are GPUs."""
    inception: Path | None = None
    """Published weights of Inception, where they are not in the cache."""

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give back what torch keeps of the device's memory, for other processes."""
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()

    def seconds(
        self, *sides: Callable[[], object], most: int | None = None, warm: bool = False
    ) -> list[float]:
        """Median seconds of each side, run in turns.

        Args:
            sides: what is timed.
            most: repetitions, where they are fewer than usual.
            warm: whether each has run before; else there is one round more, which is not counted.
        """
        count = min(most or self.sizes.repetitions, self.sizes.repetitions)
        taken: list[list[float]] = [[] for _ in sides]
        for repetition in range(warm, count + 1):
            for side, times in zip(sides, taken, strict=True):
                self.wait()
                started = time.perf_counter()
                side()
                self.wait()
                if repetition:
                    times.append(time.perf_counter() - started)
        return [statistics.median(times) for times in taken]

    def peak_gib(self, work: Callable[[], object]) -> float:
        """Largest memory of tensors on the GPU during some work; of this process, on a CPU."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        peak = (
            torch.cuda.max_memory_allocated(self.device) if self.on_gpu else peak_resident_bytes()
        )
        return peak / GIB
