"""TensorBoard event files of a training."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from selftrans.training.progress import HISTORY_COLUMNS

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class EventFiles:
    """TensorBoard event files of a run; on resume, later steps of an earlier attempt are hidden.

    Args:
        directory: of the files.
        step: the step that the training resumes from.
        enabled: false in every process but the first.
    """

    def __init__(self, directory: Path, step: int, *, enabled: bool) -> None:
        self._directory, self._step, self._enabled = directory, step, enabled
        self._writer: SummaryWriter | None = None
        self._written_at = time.monotonic()

    def __enter__(self) -> EventFiles:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, row: dict[str, float], images: int) -> None:
        """Write one row of the history and the rate since the last one."""
        if not self._enabled:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._directory, purge_step=self._step + 1)
        now = time.monotonic()
        step = int(row["step"])
        for name in HISTORY_COLUMNS[1:]:
            if math.isfinite(row[name]):  # not where nothing is aligned, or fp16 skipped the step
                self._writer.add_scalar(f"train/{name}", row[name], step)
        self._writer.add_scalar("speed/images_per_second", images / (now - self._written_at), step)
        self._written_at = now
