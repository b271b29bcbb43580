"""Jobs of this machine, forked from a process that has imported their libraries."""

import atexit
import os
import sys

from selftrans.runtime.fork_server import PRESENT, ForkServer

FEWEST_JOBS = 4
"""The server's imports cost as much CPU time as those of two jobs."""


def fork_jobs(count: int) -> None:
    """Have the ``count`` programs that Snakemake is about to start forked, where that pays."""
    survives_a_fork = sys.platform == "linux"  # elsewhere the libraries do not
    if survives_a_fork and count >= FEWEST_JOBS and PRESENT not in os.environ:
        server = ForkServer()
        atexit.register(server.stop)
        os.environ.update(server.environment)
