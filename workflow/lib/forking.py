"""Jobs of this machine, forked from a process that has imported their libraries."""

import atexit
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selftrans.runtime.fork_server import ForkServer
from selftrans.runtime.starter import PRESENT

FEWEST_JOBS = 4
"""The server's imports cost as much CPU time as those of two jobs."""


def fork_jobs(planned: Iterable[Any]) -> None:
    """Have those of Snakemake's jobs forked that a fork server takes, where that pays."""
    count = sum(
        job.is_shell and job.threads == 1 and job.resources.get("device") == "cpu"
        for job in planned
    )
    if count < FEWEST_JOBS or PRESENT in os.environ or not _jobs_are_of_this_python():
        return
    try:
        server = ForkServer()
    except (AttributeError, OSError):  # a system without what it needs
        return
    atexit.register(server.stop)
    os.environ.update(server.environment)


def _jobs_are_of_this_python() -> bool:
    """Whether ``python`` of a job is what runs Snakemake, on a system whose libraries fork."""
    found = shutil.which("python")
    return (
        sys.platform == "linux"
        and found is not None
        and Path(found).parent == Path(sys.executable).parent
    )
