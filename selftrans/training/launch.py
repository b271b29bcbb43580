"""Several processes: torchrun on this node, and how the nodes of a job find each other."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.machine import granted_threads
from selftrans.runtime.signals import StopRequest, die_with_parent, ignore_stop_signals

STOP_FILE = "SELFTRANS_STOP_FILE"
PATIENCE_SECONDS = 30
"""For processes whose peer has failed: one that waits for it on a GPU reacts to no signal."""


def in_launched_process() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def stop_request() -> StopRequest:
    """This process's stop request; a launched one also follows its launcher's, and ends with it."""
    if in_launched_process():
        die_with_parent()
    file = os.environ.get(STOP_FILE)
    return StopRequest(listen=Path(file) if file else None)


def node_rank(nodes: int, environment: Mapping[str, str]) -> int:
    """This node's rank among the job's nodes."""
    return (
        int(environment.get("SLURM_NODEID") or environment.get("NODE_RANK") or 0)
        if nodes > 1
        else 0
    )


def notify_launcher() -> None:
    """Say that this process stops on request, in case its launcher received none."""
    if file := os.environ.get(STOP_FILE):
        Path(file).write_text("stopped", encoding="ascii")


def _between() -> None:
    ignore_stop_signals()
    die_with_parent()


def launch(processes: int, nodes: int) -> None:
    """Run this same command line in ``processes`` processes of this node, and end as they end.

    The failure of a process ends the others of its node; the launcher of another node does not see
    it, srun does (``--kill-on-bad-exit``).

    Raises:
        UserError: the nodes cannot find each other.
        Interrupted: a signal arrived, and the processes saved.
        SystemExit: a process failed; the others of this node are ended, too.
    """
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += ["--standalone"] if nodes == 1 else rendezvous(nodes, os.environ)
    # torchrun takes the end of a process for a failure and any signal for an order to end its
    # processes: requests to save and stop bypass it, through a file.
    command += ["--signals-to-handle=SIGHUP", f"--shutdown-timeout={PATIENCE_SECONDS}"]
    # "--" keeps torchrun from taking our --run for an abbreviation of its own options.
    command += ["-m", "--", "selftrans", *sys.argv[1:]]
    threads = max(1, granted_threads() // processes)
    with tempfile.TemporaryDirectory(prefix="selftrans-") as directory:
        file = Path(directory) / "stop"
        stop = StopRequest(tell=file)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), STOP_FILE: str(file)}
        torchrun = subprocess.Popen(command, env=environment, preexec_fn=_between)  # noqa: PLW1509
        code = torchrun.wait()
        reason = stop.reason or (file.is_file() and "another node")
    if code and reason:
        raise Interrupted(
            f"{reason}: what the processes saved is kept, rerun the same command to resume"
        )
    if code:
        sys.exit(f"error: a training process ended with exit code {code}; its message is above")


def rendezvous(nodes: int, environment: Mapping[str, str]) -> list[str]:
    """Options of torchrun for one of several nodes: its rank, and the first one's address and port.

    From SLURM's variables, where ``srun`` starts one task per node, else from ``NODE_RANK``,
    ``MASTER_ADDR`` and ``MASTER_PORT``, which other schedulers or a job script set.

    Raises:
        UserError: a variable is missing, or the job has another number of nodes.
    """
    if "SLURM_STEP_NODELIST" in environment:
        if (count := int(environment["SLURM_STEP_NUM_NODES"])) != nodes:
            raise UserError(f"--nodes: {nodes} requested, srun runs on {count} (allowed: {count})")
        rank, address = environment["SLURM_NODEID"], first_host(environment["SLURM_STEP_NODELIST"])
        # Jobs may share a node: the port depends on the job, and is not one that systems hand out.
        port = str(10_000 + int(environment["SLURM_JOB_ID"]) % 20_000)
    else:
        names = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
        if missing := [name for name in names if name not in environment]:
            raise UserError(
                f"--nodes: {nodes} nodes find each other by srun (one task per node) or by"
                f" {', '.join(names)}; {missing[0]} is not set"
            )
        rank, address, port = (environment[name] for name in names)
    return [
        f"--nnodes={nodes}",
        f"--node-rank={rank}",
        f"--master-addr={address}",
        f"--master-port={port}",
    ]


def first_host(nodelist: str) -> str:
    """First name of a SLURM list of nodes: ``n[03-05,9],m1`` begins with ``n03``."""
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", nodelist)
    if match is None:
        raise UserError(f"SLURM_STEP_NODELIST: {nodelist!r} is not a list of nodes")
    prefix, number, suffix = match.groups(default="")
    return prefix + number + suffix
