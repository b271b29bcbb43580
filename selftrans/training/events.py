"""The scalars of a training: into TensorBoard's event files and, on request, elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from selftrans.training.progress import HISTORY_COLUMNS
from selftrans.training.throughput import Reached


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
        device: whose memory is logged.
    """

    def __init__(self, loggers: Sequence[Logger], device: torch.device) -> None:
        self._loggers = loggers
        kind = "allocated" if device.type == "cuda" else "resident"
        self._memory = f"memory/peak_{kind}_gib"

    def __enter__(self) -> ScalarLog:
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.close()

    def write_interval(
        self, row: Mapping[str, float], reached: Reached, optimizer: torch.optim.Optimizer
    ) -> None:
        """Write one row of the history, and speed, memory and learning rate of its interval."""
        values = {f"train/{name}": row[name] for name in HISTORY_COLUMNS[1:]}
        values["train/learning_rate"] = optimizer.param_groups[0]["lr"]
        values["speed/images_per_second"] = reached.images_per_second
        values["speed/tflops"] = reached.tflops
        if reached.share_of_stated_rate is not None:
            values["speed/share_of_stated_rate"] = reached.share_of_stated_rate
        values["speed/data_wait_seconds"] = reached.data_wait_seconds
        values[self._memory] = reached.peak_memory_gib
        self._write(int(row["step"]), values)

    def write_held_out(self, row: Mapping[str, float]) -> None:
        """Write the loss on held-out images: its mean over t, and that of each bin of t."""
        values = {f"held_out/{name}": row[name] for name in row if name != "step"}
        self._write(int(row["step"]), values)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        for logger in self._loggers:
            logger.write(step, values)
