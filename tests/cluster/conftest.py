"""One cluster for all tests here; its daemons end with them, also after a failure."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.cluster.slurm import PREFIX, Cluster, why_not


@pytest.fixture(scope="session")
def cluster():
    if reason := why_not():
        pytest.skip(reason)
    root = Path(tempfile.mkdtemp(prefix=PREFIX))  # a short path: sockets have no room for a long one
    found = Cluster(root)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(root, ignore_errors=True)
        assert not subprocess.run(["pgrep", "-f", str(root)], capture_output=True).stdout
