"""Every planted fault fails a fast test."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.mutations.faults import FAULTS
from tests.support import REPOSITORY
from tests.support.workplace import copy_project

COPIED = ("selftrans", "benchmarks", "experiments", "tests", "pyproject.toml", "config.yaml")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_text_of_a_fault_occurs_once(fault):
    planted = FAULTS[fault]
    assert (REPOSITORY / planted.file).read_text().count(planted.old) == 1
    assert planted.new != planted.old


class Copy:
    """A copy of the project, and a process that runs its tests."""

    def __init__(self, directory):
        self.directory = directory
        copy_project(directory, *COPIED)
        # A stale .pyc would pass for a text of equal length that was written in the same second.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTHONPATH"] = str(directory)
        command = [sys.executable, "-m", "tests.mutations.runner"]
        self.runner = subprocess.Popen(
            command, cwd=directory, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def run(self, *arguments):
        self.runner.stdin.write(json.dumps(arguments) + "\n")
        self.runner.stdin.flush()
        return json.loads(self.runner.stdout.readline())


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    made = Copy(tmp_path_factory.mktemp("copy"))
    yield made
    made.runner.stdin.close()
    made.runner.wait(60)


@pytest.mark.slow
def test_without_a_fault_the_tests_pass(copy):
    """Those of all faults, which are fast ones, at once: so it is the fault that fails them."""
    chosen = [shlex.split(fault.tests) for fault in FAULTS.values()]
    files = sorted({file for file, *_ in chosen})
    names = sorted({f"({words[2]})" for words in chosen if words[1:2] == ["-k"]})
    assert all(len(words) in (1, 3) for words in chosen)
    found = copy.run(
        *files, "-k", " or ".join(names), "-m", "not slow and not workflow and not cluster"
    )
    assert found["passed"] >= len(names), found["output"]
    assert not found["failed"] + found["broken"], found["output"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_a_fast_test(copy, fault):
    planted = FAULTS[fault]
    file = copy.directory / planted.file
    text = file.read_text()
    file.write_text(text.replace(planted.old, planted.new))
    try:
        found = copy.run(
            *shlex.split(planted.tests), "-x", "-m", "not slow and not workflow and not cluster"
        )
    finally:
        file.write_text(text)
    assert not found["broken"], found["output"]
    assert found["failed"], f"no test of {planted.tests} notices that {fault}:\n{found['output']}"
