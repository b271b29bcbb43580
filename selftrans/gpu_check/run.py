"""All groups of checks on a machine, one after another."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import torch

from selftrans.gpu_check import (
    compilation,
    evaluation,
    measures,
    numerics,
    processes,
    resume,
    stage_2,
)
from selftrans.gpu_check.checks import Group, Outcome, lost_device, run_group
from selftrans.gpu_check.report import machine_name, record, write
from selftrans.gpu_check.sizes import Sizes, miniature
from selftrans.gpu_check.workbench import Workbench
from selftrans.runtime.devices import (
    DeviceName,
    allow_tf32,
    granted_gpus,
    lease_gpus,
    require_gpu,
    visible_gpus,
)
from selftrans.runtime.errors import UserError

GROUPS = (
    Group("numerics", 240, numerics.TOLERANCE, numerics.numerics),
    Group("evaluation", 90, evaluation.TOLERANCE, evaluation.evaluation),
    Group("measures", 360, measures.TOLERANCE, measures.measures),
    Group("stage 2", 60, stage_2.TOLERANCE, stage_2.stage_2),
    Group("resume", 120, resume.TOLERANCE, resume.resume),
    Group("compile", 120, compilation.TOLERANCE, compilation.compilation),
    Group("processes", 240, processes.TOLERANCE, processes.processes),
)
"""In the order in which they are run. On one card, which has no several processes to check, their
budgets add up to 17 minutes."""
CPU_PROCESSES = 2


def check_machine(
    output: Path,
    *,
    device: DeviceName = "auto",
    processes: int | None = None,
    inception: Path | None = None,
    in_miniature: bool = False,
    only: tuple[str, ...] = (),
) -> list[Outcome]:
    """Run the checks, print a line for each, and write what they found.

    Args:
        output: the results (.json), to which this machine's are added; a page goes beside it.
        device: where to compute.
        processes: that share a training; by default a process for each card, and two on a CPU.
        inception: published weights of Inception, where they are not in the cache.
        in_miniature: whether to make them of tiny networks, in a minute; always on a CPU.
        only: names of groups; all, if there are none.

    Returns:
        How every check ended.

    Raises:
        UserError: there is no such group, or no such device.
    """
    groups = [group for group in GROUPS if not only or group.name in only]
    if unknown := set(only) - {group.name for group in groups}:
        allowed = ", ".join(group.name for group in GROUPS)
        raise UserError(f"--only: {min(unknown)!r} is no group (allowed: {allowed})")
    on_gpu = granted_gpus(device) > 0
    count = processes or (len(visible_gpus()) if on_gpu else CPU_PROCESSES)
    if on_gpu:
        # Read when CUDA starts, and needed by the deterministic kernels of the checks of resuming.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        lease_gpus(count)
        require_gpu()
        allow_tf32(False)
    with tempfile.TemporaryDirectory(prefix="selftrans-check-") as directory:
        bench = Workbench(
            device=torch.device("cuda", 0) if on_gpu else torch.device("cpu"),
            sizes=Sizes() if on_gpu and not in_miniature else miniature(),
            directory=Path(directory),
            processes=count,
            inception=inception,
        )
        name, started, outcomes = machine_name(bench), time.monotonic(), list[Outcome]()
        lost = ""
        for group in groups:
            for outcome in run_group(group, bench, lost):
                outcomes.append(outcome)
                print(outcome.line(), flush=True)
            lost = lost_device(bench)
            # After every group: whoever ends the program early keeps what was found.
            for files in bench.directory.iterdir():
                shutil.rmtree(files, ignore_errors=True)
            write(output, name, record(bench, outcomes, time.monotonic() - started), GROUPS)
    return outcomes
