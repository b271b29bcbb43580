"""Tests have tiers, marked at each test; ``--strict-tiers`` holds the unmarked ones to theirs.

``--cpu-times=FILE`` writes the CPU seconds of every test, its processes and its fixtures included.
"""

import os
import platform
import sys
from pathlib import Path

import pytest

LIMIT = 2.0
"""CPU seconds of a fast test."""
STARTS = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system")
MARKERS = ("slow", "workflow", "cluster")


def cpu_seconds() -> float:
    """User and system time of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tiers")
    group.addoption(
        "--strict-tiers",
        action="store_true",
        help=f"an unmarked test fails if it starts a process or takes over {LIMIT:g} s of CPU",
    )
    group.addoption("--cpu-times", type=Path, help="file that the CPU seconds of tests go to")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of tests that wait for a cluster or run Snakemake come first: they are the longest."""

    long = {
        name: {item.path for item in items if item.get_closest_marker(name)}
        for name in ("cluster", "workflow")
    }
    items.sort(key=lambda item: [item.path not in files for files in long.values()])


def pytest_configure(config: pytest.Config) -> None:
    if config.option.strict_tiers or config.option.cpu_times:
        config.pluginmanager.register(Tiers(config.option.strict_tiers, config.option.cpu_times))


class Tiers:
    """Watches what a test takes."""

    def __init__(self, strict: bool, times: Path | None) -> None:
        self.strict, self.times = strict, times
        self.started: list[str] = []
        platform.uname()  # starts a program once, whichever test is the first to ask
        platform.processor()
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in STARTS:
            self.started.append(f"{event} {arguments[:1]}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        before = cpu_seconds()
        self.started.clear()
        result = yield
        if self.times is not None:
            with self.times.open("a", encoding="utf-8") as file:
                file.write(f"{cpu_seconds() - before:.2f} {len(self.started)} {item.nodeid}\n")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item):
        before = cpu_seconds()
        result = yield
        taken = cpu_seconds() - before
        if self.strict and not any(item.get_closest_marker(name) for name in MARKERS):
            if self.started:
                pytest.fail(f"starts a process, and is not marked as slow: {self.started[0]}")
            if taken > LIMIT:
                pytest.fail(f"takes {taken:.1f} s of CPU, and is not marked as slow")
        return result
