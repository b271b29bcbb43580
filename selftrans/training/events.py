"""The scalars of a training: into TensorBoard's event files and, on request, elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from selftrans.training.progress import HISTORY_COLUMNS

GIB = 2**30


class Logger(Protocol):
    """Where scalars go."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of a step, by tag."""

    def close(self) -> None:
        """Write what is left."""


class ScalarLog:
    """What a training logs while it runs. None of it changes the training.

    Args:
        loggers: where it goes; none in every process but the first.
        device: whose memory is logged, where it is a GPU.
    """

    def __init__(self, loggers: Sequence[Logger], device: torch.device) -> None:
        self._loggers, self._device = loggers, device
        self._written_at = time.monotonic()

    def __enter__(self) -> ScalarLog:
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.close()

    def write_interval(
        self, row: Mapping[str, float], images: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Write one row of the history, and speed, memory and learning rate of its interval.

        The memory is the first process's peak since the last row.
        """
        now = time.monotonic()
        values = {f"train/{name}": row[name] for name in HISTORY_COLUMNS[1:]}
        values["train/learning_rate"] = optimizer.param_groups[0]["lr"]
        values["speed/images_per_second"] = images / (now - self._written_at)
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            values["memory/peak_allocated_gib"] = peak / GIB
            torch.cuda.reset_peak_memory_stats(self._device)
        self._written_at = now
        self._write(int(row["step"]), values)

    def write_held_out(self, row: Mapping[str, float]) -> None:
        """Write the loss on held-out images: its mean over t, and that of each bin of t."""
        values = {f"held_out/{name}": row[name] for name in row if name != "step"}
        self._write(int(row["step"]), values)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        for logger in self._loggers:
            logger.write(step, values)
