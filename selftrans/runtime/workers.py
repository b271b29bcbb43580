"""A piece of work shared among processes of one machine, a GPU for each where there are GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from selftrans.runtime.devices import (
    DeviceName,
    claim_device,
    granted_gpus,
    lease_gpus,
    visible_gpus,
)
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.lock import DirectoryLock
from selftrans.runtime.logs import LOG
from selftrans.runtime.machine import granted_threads
from selftrans.runtime.signals import StopRequest, die_with_parent
from selftrans.runtime.starter import starter

if TYPE_CHECKING:
    import torch

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Shard:
    """Which of several workers a process is."""

    rank: int
    world_size: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``2/8`` is the third of eight."""
        rank, world_size = map(int, text.split("/"))
        if not 0 <= rank < world_size:
            raise ValueError
        return cls(rank, world_size)

    @classmethod
    def all(cls) -> Shard:
        """The whole work, done by one process."""
        return cls(0, 1)

    def span(self, count: int) -> range:
        """This worker's share of ``count`` items: neighbours, as many as any other's within one."""
        return range(
            count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size
        )


class ShardedWork(Protocol):
    """Work that any number of processes share; the shares lie on disk until it is finished."""

    def is_finished(self) -> bool:
        """Whether an earlier process has written exactly what this one would write.

        Never as a whole, where every share that is there is taken.
        """
        return False

    def run(self, shard: Shard) -> None:
        """Do one process's share."""
        ...

    def finish(self, world_size: int) -> object:
        """Put the shares of ``world_size`` processes together."""
        ...

    def remove_shares(self) -> None:
        """Remove what is not needed once the whole is written; nothing, if that is the shares."""
        return


@dataclass(frozen=True)
class Workers:
    """How many processes share a piece of work, and which of them this one is."""

    device: DeviceName = "cpu"
    """With ``cuda``, each has a GPU of its own."""
    processes: int = 1
    shard: Shard | None = None
    """This process's share; None in the one that the user started."""
    command: tuple[str, ...] = ()
    """The command line that the user started, which starts the others; none within Python."""


def run_sharded(
    workers: Workers,
    open_work: Callable[[torch.device], ShardedWork],
    owner: DirectoryLock,
    most: int | None = None,
) -> None:
    """Run the work of a command on as many processes as are requested.

    The same command line has three roles. With one process it does all of the work and finishes
    it. With several it starts itself once for each, with ``--worker rank/size`` added, waits for
    them, and finishes the work; it computes nothing itself, so its device is the CPU. As a worker
    it does its share.

    Whoever started the command may be gone when it ends: a workflow that was killed takes the
    files for unfinished, deletes them and starts the command again. The shares are kept for that.

    Args:
        workers: the processes.
        open_work: the work on a device; called once, in every process.
        owner: the lock of what is written, held by all but the workers.
        most: no more processes than this, for work that cannot be divided further.

    Raises:
        Interrupted: a signal arrived; the workers are ended.
        SystemExit: a worker failed; its message is on stderr.
    """
    world_size = workers.processes if most is None else min(workers.processes, most)
    gpus = granted_gpus(workers.device, world_size)
    if workers.shard is not None:
        open_work(claim_device(min(gpus, 1))).run(workers.shard)
        return
    with owner:
        work = open_work(claim_device(gpus if world_size == 1 else 0))
        if work.is_finished():
            LOG.info("taken as it is: another process has finished this same work")
        else:
            if world_size > 1:
                _run_workers(workers.command, gpus, world_size)
            else:
                work.run(Shard.all())
            owner.check()
            work.finish(world_size)
        if not starter().is_gone:
            work.remove_shares()


def _run_workers(words: Sequence[str], gpus: int, world_size: int) -> None:
    """Run a command line with ``--worker k/n`` for every k; if one fails, end the others."""
    if not words:
        raise UserError("processes: several of them are started by the command selftrans alone")
    cards: list[str] = []
    if gpus:
        lease_gpus(gpus)
        cards = visible_gpus()
    threads = str(max(1, granted_threads() // world_size))
    stop = StopRequest()
    workers = []
    for rank in range(world_size):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        if cards:
            environment |= {"CUDA_VISIBLE_DEVICES": cards[rank], "SELFTRANS_LEASED": cards[rank]}
        command = [*words, "--worker", f"{rank}/{world_size}"]
        command += ["--device", "cuda" if gpus else "cpu"]
        workers.append(
            subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)  # noqa: PLW1509
        )
    try:
        _wait_for(workers, stop)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()
        stop.release()


def _wait_for(workers: Sequence[subprocess.Popen[bytes]], stop: StopRequest) -> None:
    while True:
        codes = [worker.poll() for worker in workers]
        if None not in codes and not any(codes):
            return
        if stop.reason:
            raise Interrupted(
                f"{stop.reason}: what is done is kept, rerun the same command to resume"
            )
        if failed := [code for code in codes if code]:
            sys.exit(
                failed[0] if failed[0] > 0 else f"error: a worker was killed by signal {-failed[0]}"
            )
        time.sleep(POLL_SECONDS)
