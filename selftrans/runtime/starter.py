"""Which process started this program, and what starts another of it."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

PRESENT = "SELFTRANS_FORK_SERVER"
"""Set where programs are forked: what stands for Python."""


@dataclass(frozen=True)
class Starter:
    """The parent that a process had at its start.

    In a forked program, the process is the one that stands for it (``fork_server``).
    """

    process: int
    pid: int

    @property
    def is_gone(self) -> bool:
        """Whether another process has become the parent."""
        if self.process == os.getpid():
            return os.getppid() != self.pid
        status = Path(f"/proc/{self.process}/stat").read_text(encoding="utf-8", errors="replace")
        return int(status.rpartition(")")[2].split()[1]) != self.pid


_starters = [Starter(os.getpid(), os.getppid())]


def set_starter(starter: Starter) -> None:
    """In a process that has been forked."""
    _starters[:] = [starter]


def starter() -> Starter:
    """Of this program."""
    return _starters[0]


def python() -> str:
    """What starts another process of a program: this Python, or what stands for it."""
    return os.environ.get(PRESENT, sys.executable)
