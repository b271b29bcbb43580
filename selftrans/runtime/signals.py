"""Signals that request a program to save and stop."""

import ctypes
import signal
import sys
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Set by SIGTERM and SIGUSR1 (what schedulers send before the end of a job) and by SIGINT.

    A launcher passes its request through a file to the processes that it started: the program
    between them would die of the signal or kill its children by it.

    Args:
        tell: file that the request is written to.
        listen: file that another program's request is read from.
    """

    def __init__(self, *, tell: Path | None = None, listen: Path | None = None) -> None:
        self._noted: str | None = None
        self._tell, self._listen = tell, listen
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}

    @property
    def reason(self) -> str | None:
        """The signal's name; None without a request."""
        if self._noted is None and self._listen is not None and self._listen.is_file():
            self._noted = self._listen.read_text(encoding="ascii") or None
        return self._noted

    def release(self) -> None:
        """Restore the former signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._noted is not None:  # a second signal may come while the first is written down
            return
        self._noted = signal.Signals(number).name
        if self._tell is not None:
            self._tell.write_text(self._noted, encoding="ascii")


def ignore_stop_signals() -> None:
    """For a program between launcher and processes, which must not act on them."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def die_with_parent() -> None:
    """Be killed when the parent process ends: it holds the lease of this process's cards."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
