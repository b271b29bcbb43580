"""Checks, what they find, and how they are run one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from selftrans.runtime.errors import shortened
from selftrans.runtime.logs import LOG

if TYPE_CHECKING:
    from selftrans.gpu_check.workbench import Workbench

Status = Literal["passed", "failed", "measured", "not run"]


class NotRun(Exception):
    """A check cannot be made here; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    text: str
    """In a line."""
    values: Mapping[str, float] = field(default_factory=dict)
    """The same as numbers, by name."""
    passed: bool | None = None
    """Whether what must hold holds; None of a measurement."""


@dataclass(frozen=True)
class Check:
    """One thing to look at."""

    name: str
    find: Callable[[], Finding]


class Group(NamedTuple):
    """Checks that belong together."""

    name: str
    seconds: float
    """That the group may take on a GPU: no check of it begins later."""
    tolerance: str
    """What is tolerated, and why."""
    checks: Callable[[Workbench], Iterable[Check]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a check ended."""

    group: str
    name: str
    status: Status
    text: str
    values: Mapping[str, float]
    seconds: float

    def line(self) -> str:
        """As the command prints it."""
        return f"{self.status:8}  {self.group}: {self.name}: {self.text}"


def within(errors: Mapping[str, float], tolerances: Mapping[str, float]) -> Finding:
    """A finding that passes where no error is above its tolerance; not a number never passes."""
    passed = all(errors[name] <= tolerances[name] for name in errors)
    text = ", ".join(f"{name} {errors[name]:.1e} (≤ {tolerances[name]:.1e})" for name in errors)
    return Finding(text, dict(errors), passed)


def run_group(group: Group, bench: Workbench, lost: str = "") -> Iterator[Outcome]:
    """Every check of a group; one that fails does not keep the others from being made.

    Args:
        group: of checks.
        bench: what they have at hand.
        lost: why nothing can be made, of ``lost_device`` after the group before.
    """
    started = time.monotonic()
    try:
        checks: Sequence[Check] = list(group.checks(bench))
    except Exception as error:
        checks = [Check("preparation", _raising(error))]
    for check in checks:
        begun = time.monotonic()
        if lost:
            yield _outcome(group, check, "not run", Finding(lost), 0.0)
            continue
        if begun - started > group.seconds:
            why = f"the {group.seconds:g} s of this group are used up"
            yield _outcome(group, check, "not run", Finding(why), 0.0)
            continue
        try:
            found = check.find()
            status: Status = (
                "measured" if found.passed is None else "passed" if found.passed else "failed"
            )
        except NotRun as why:
            status, found = "not run", Finding(str(why))
        except Exception as error:
            LOG.debug("%s: %s", group.name, check.name, exc_info=True)
            status, found = "failed", Finding(shortened(f"{type(error).__name__}: {error}", 300))
        yield _outcome(group, check, status, found, time.monotonic() - begun)
        lost = lost_device(bench)


def lost_device(bench: Workbench) -> str:
    """Why no call to the device succeeds any more in this process; empty if it does."""
    try:
        bench.wait()
        bench.free()
    except RuntimeError as error:
        return f"the device is lost to this process: {shortened(str(error), 200)}"
    return ""


def _raising(error: Exception) -> Callable[[], Finding]:
    def find() -> Finding:
        raise error

    return find


def _outcome(group: Group, check: Check, status: Status, found: Finding, seconds: float) -> Outcome:
    return Outcome(
        group=group.name,
        name=check.name,
        status=status,
        text=found.text,
        values=found.values,
        seconds=seconds,
    )
