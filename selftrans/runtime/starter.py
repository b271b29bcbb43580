"""Which process started this program, and whether it is gone."""

import os
from dataclasses import dataclass
from pathlib import Path


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
