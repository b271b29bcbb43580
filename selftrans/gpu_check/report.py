"""The results of all machines in one file, and a page of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from selftrans import __version__
from selftrans.gpu_check.checks import Group, Outcome
from selftrans.gpu_check.measures import RATE
from selftrans.gpu_check.workbench import Workbench
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields, write_json, write_text
from selftrans.runtime.machine import describe_machine

FORMAT = 1


def machine_name(bench: Workbench) -> str:
    """By which a machine's results are known: its card, or its processor."""
    described = describe_machine(bench.device, bench.processes)
    return str(described["gpu"] or described["processor"])


def rates(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """TFLOP/s that trainings reach, by arithmetic: those of the last backbone that was timed."""
    return {
        name.removeprefix(f"{RATE} "): value
        for outcome in outcomes
        for name, value in outcome.values.items()
        if name.startswith(f"{RATE} ")
    }


def record(bench: Workbench, outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """What is stored of a machine."""
    return {
        "machine": describe_machine(bench.device, bench.processes),
        "versions": {"selftrans": __version__, "torch": torch.__version__},
        "miniature": bench.sizes.miniature,
        "seconds": round(seconds, 1),
        "rates": rates(outcomes),
        "checks": [asdict(outcome) for outcome in outcomes],
    }


def write(path: Path, name: str, machine: Mapping[str, Any], groups: Sequence[Group]) -> None:
    """Add a machine's results, and write the page beside them.

    Groups that were not run this time stay as they were found before; results in miniature stand
    beside those of full size.

    Args:
        path: the results (.json); the page has the same name (.md).
        name: of the machine.
        machine: its results.
        groups: of checks, with what they tolerate.
    """
    machines: dict[str, Any] = {}
    with suppress(UserError):  # none yet, or another thing
        machines = read_fields(path, format=int, machines=dict)["machines"]
    name = f"{name}, in miniature" if machine["miniature"] else name
    machines[name] = _merged(machines.get(name), machine)
    write_json(path, {"format": FORMAT, "machines": machines})
    write_text(path.with_suffix(".md"), page(machines, groups))


def _merged(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """The results of a machine with those of groups that were run before and not this time."""
    if old is None:
        return dict(new)
    run = {check["group"] for check in new["checks"]}
    kept = [check for check in old["checks"] if check["group"] not in run]
    return {**new, "checks": [*kept, *new["checks"]], "rates": new["rates"] or old["rates"]}


def page(machines: Mapping[str, Mapping[str, Any]], groups: Sequence[Group]) -> str:
    """All machines, one after another, as Markdown."""
    parts = ["# Checks of this machine's GPU", "", "Written by `selftrans check-gpu`."]
    for name, machine in machines.items():
        parts += ["", f"## {name}", "", *_summary(machine)]
        for group in groups:
            rows = [check for check in machine["checks"] if check["group"] == group.name]
            if rows:
                parts += ["", f"### {group.name}", "", group.tolerance, ""]
                parts += ["| check | | found |", "|---|---|---|"]
                parts += [f"| {_cell(row['name'])} | {_mark(row)} | {_cell(row['text'])} |"
                          for row in rows]  # fmt: skip
    return "\n".join(parts) + "\n"


def _summary(machine: Mapping[str, Any]) -> list[str]:
    checks, described = machine["checks"], machine["machine"]
    counts = {
        status: sum(check["status"] == status for check in checks)
        for status in ("passed", "failed", "measured", "not run")
    }
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    spent = f"{described['processes']} processes, {machine['seconds']:,.0f} s"
    lines = [
        f"{versions}, {described['system']}; {spent}.",
        "",
        ", ".join(f"{count} {status}" for status, count in counts.items()) + ".",
    ]
    if machine["miniature"]:
        lines += ["", "**In miniature: the speeds say nothing about the machine.**"]
    elif machine["rates"]:
        reached = ", ".join(f"{rate:.4g} in {name}" for name, rate in machine["rates"].items())
        lines += ["", f"TFLOP/s of a training, which `selftrans plan` takes: {reached}."]
    if failed := [check for check in checks if check["status"] == "failed"]:
        lines += ["", "Failed:", ""]
        lines += [f"- {check['group']}: {check['name']}: {check['text']}" for check in failed]
    return lines


def _mark(row: Mapping[str, Any]) -> str:
    return "**failed**" if row["status"] == "failed" else str(row["status"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
