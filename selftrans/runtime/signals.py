"""Signals that ask a program to save and leave."""

import signal
from pathlib import Path
from types import FrameType

from selftrans.runtime.files import write_text

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Set by SIGTERM and SIGUSR1 (what schedulers send before the end of a job) and by SIGINT.

    A launcher hands its request on to the processes that it started through a file: between them stands a program
    that would die of the signal or kill its children by it.

    Args:
        tell: file that the request is written to.
        listen: file that another program's request is read from.
    """

    def __init__(self, *, tell: Path | None = None, listen: Path | None = None) -> None:
        self._noted: str | None = None
        self._tell, self._listen = tell, listen
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    @property
    def reason(self) -> str | None:
        """The signal's name; None as long as nobody asked."""
        if self._noted is None and self._listen is not None and self._listen.is_file():
            self._noted = self._listen.read_text(encoding="ascii")
        return self._noted

    def _note(self, number: int, _: FrameType | None) -> None:
        self._noted = signal.Signals(number).name
        if self._tell is not None:
            write_text(self._tell, self._noted)


def ignore_stop_signals() -> None:
    """For a program in between, which is not to act on them."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
