"""Signals that ask a program to save and leave."""

import signal
from subprocess import Popen
from types import FrameType


class StopRequest:
    """Set by SIGTERM and SIGUSR1 (what schedulers send before the end of a job) and by SIGINT.

    Args:
        forward_to: a child process that is to get the signal, too.
    """

    def __init__(self, forward_to: Popen[bytes] | None = None) -> None:
        self.reason: str | None = None
        self._child = forward_to
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        if self._child is not None and self._child.poll() is None:
            # torchrun hands on SIGTERM; of SIGUSR1 it would die and leave its processes behind.
            self._child.send_signal(signal.SIGTERM if number == signal.SIGUSR1 else number)
