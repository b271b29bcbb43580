"""When a training saves and when it stops."""

import time
from typing import Literal

import torch
from accelerate import Accelerator

from selftrans.runtime.signals import StopRequest


class Control:
    """When to save and when to stop; all processes decide alike, by the most urgent answer of any.

    Args:
        accelerator: the processes.
        stop: the signal's request.
        save_seconds: time between two saves in progress.
    """

    POLL_STEPS = 10  # between two exchanges, where there are several processes

    def __init__(self, accelerator: Accelerator, stop: StopRequest, save_seconds: float) -> None:
        self.accelerator, self.stop, self.save_seconds = accelerator, stop, save_seconds
        self._saved_at = time.monotonic()

    def poll(self, step: int) -> Literal["save", "stop"] | None:
        """What is due after ``step`` steps."""
        due = 2 if self.stop.reason else int(time.monotonic() - self._saved_at >= self.save_seconds)
        if self.accelerator.num_processes > 1:
            if step % self.POLL_STEPS:
                return None
            requested = torch.tensor([due], device=self.accelerator.device)
            due = int(self.accelerator.gather(requested).max())
        if due == 0:
            return None
        self._saved_at = time.monotonic()
        return "stop" if due == 2 else "save"
