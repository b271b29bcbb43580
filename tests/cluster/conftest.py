"""One cluster for all tests here; its daemons end with them, also after a failure."""

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.cluster.slurm import PREFIX, Cluster, stop, why_not


def end_once(*_):
    """Whoever ends the tests by SIGTERM leaves no daemon behind either; nor does who asks twice."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@pytest.fixture(scope="session")
def cluster():
    if reason := why_not():
        pytest.skip(reason)
    before = signal.signal(signal.SIGTERM, end_once)
    root = Path(tempfile.mkdtemp(prefix=PREFIX))  # a short path: sockets have no room for a long one
    try:
        found = Cluster(root)
        found.start()
        yield found
    finally:
        stop(root)
        shutil.rmtree(root, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)
        assert not subprocess.run(["pgrep", "-f", str(root)], capture_output=True).stdout
