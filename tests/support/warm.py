"""Programs of a workflow's tests without the seconds that their imports take.

A lifecycle starts a hundred processes, Snakemake's own among them. Those of all tests are forked
from one server. The tests of faults, orphans and clusters start real processes.
"""

import atexit
import functools
import os
import subprocess
from typing import Any

from selftrans.runtime.fork_server import LIBRARIES, SELFTRANS, ForkServer, Program
from selftrans.runtime.starter import PRESENT

SNAKEMAKE = Program("snakemake.cli", "snakemake")


@functools.cache
def warm_environment() -> dict[str, str]:
    """What has to be set for these programs to be found; starts the server."""
    server = ForkServer((SELFTRANS, SNAKEMAKE), (*LIBRARIES, SNAKEMAKE.module))
    atexit.register(server.stop)
    return server.environment


def start_forked(*words: object, **options: Any) -> subprocess.Popen[str]:
    """``selftrans words``, forked; its own workers are, too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **warm_environment()}
    return subprocess.Popen(
        [environment[PRESENT], "-m", "selftrans", *map(str, words), "--device", "cpu"],
        env=environment, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
