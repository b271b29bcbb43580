"""One cluster for all tests here; its daemons end with them, also after a failure."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cluster.slurm import PREFIX, Cluster, why_not
from tests.support import REPOSITORY


@pytest.fixture(scope="session")
def cluster():
    if reason := why_not():
        pytest.skip(reason)
    root = Path(
        tempfile.mkdtemp(prefix=PREFIX)
    )  # a short path: sockets have no room for a long one
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "SLURM_CONF", str(root / "slurm.conf")
        )  # no other cluster that this machine may know of is used
        # This pipe closes however the tests end; the process at its other end then stops the
        # cluster.
        words = [sys.executable, "-m", "tests.cluster.slurm", root]
        guard = subprocess.Popen(
            words, cwd=REPOSITORY, stdin=subprocess.PIPE, start_new_session=True
        )
        (root / "guard.pid").write_text(str(guard.pid))
        try:
            found = Cluster(root)
            found.start()
            yield found
        finally:
            guard.stdin.close()
            assert guard.wait() == 0
            assert not subprocess.run(["pgrep", "-f", str(root)], capture_output=True).stdout
