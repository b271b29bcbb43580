"""Runs pytest once for each fault: ``python -m tests.mutations.runner``, in a copy of the project.

Importing the libraries costs seconds, a fault's tests cost less: the libraries are imported once,
and each fault has a forked process. A line of JSON on stdin is a list of pytest's arguments; the
answer on stdout is a line of JSON with the number of tests that failed, and the output.
"""

import contextlib
import importlib
import json
import os
import sys
import tempfile

import pytest

LIBRARIES = (
    "accelerate", "datasets", "diffusers.models", "matplotlib.figure", "numpy", "pandas",
    "pydantic", "PIL.Image", "safetensors.torch", "scipy.linalg", "scipy.stats", "sklearn.datasets",
    "timm", "torch", "torchvision", "yaml",
)  # fmt: skip


class Calls:
    """Counts tests that passed, that failed, and that broke before they ran."""

    def __init__(self) -> None:
        self.passed = self.failed = self.broken = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.passed += report.passed
            self.failed += report.failed
        else:
            self.broken += report.failed

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.broken += report.failed


def answer(arguments: list[str]) -> dict[str, object]:
    """What pytest says of the tests, in a process of its own."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as result:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                calls = Calls()
                pytest.main(["-q", "-p", "no:cacheprovider", *arguments], plugins=[calls])
                json.dump(vars(calls), result)
                result.flush()
            os._exit(0)
        os.waitpid(child, 0)
        output.seek(0)
        result.seek(0)
        text = result.read()
        counts = json.loads(text) if text else {"passed": 0, "failed": 0, "broken": 1}
        return {**counts, "output": output.read()}


def main() -> None:
    """Answer until stdin ends."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
