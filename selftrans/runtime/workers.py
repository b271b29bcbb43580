"""A piece of work shared among processes of one machine, a GPU for each where there are GPUs."""

import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass

from selftrans.runtime.devices import lease_gpus, visible_gpus
from selftrans.runtime.errors import Interrupted
from selftrans.runtime.signals import StopRequest, die_with_parent

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Shard:
    """Which of several workers a process is."""

    rank: int
    world_size: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """``2/8`` is the third of eight."""
        rank, _, world_size = text.partition("/")
        return cls(int(rank), int(world_size))

    @classmethod
    def all(cls) -> "Shard":
        """The whole work, done by one process."""
        return cls(0, 1)

    def span(self, count: int) -> range:
        """This worker's part of ``count`` items: neighbours, and as many as any other's, give or take one."""
        return range(
            count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size
        )


def add_worker_arguments(parser: ArgumentParser) -> None:
    """Give a command line the options ``--gpus``, ``--processes`` and, for its own use, ``--worker``."""
    parser.add_argument(
        "--gpus",
        type=int,
        default=0,
        help="GPUs to use, a process for each; 0 is the CPU (default: 0)",
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="processes without GPUs (default: 1)"
    )
    parser.add_argument("--worker", type=Shard.parse, help="used by the program itself: number/of")


def run_workers(module: str, arguments: Sequence[str], *, gpus: int, processes: int) -> None:
    """Run ``python -m module arguments --worker k/n`` for every k; if one fails, the others are ended.

    Raises:
        Interrupted: a signal arrived; the workers are ended.
        SystemExit: a worker failed; its message stands on stderr.
    """
    count = gpus or processes
    cards: list[str] = []
    if gpus:
        lease_gpus(gpus)
        cards = visible_gpus()
    threads = str(max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) // count))
    stop = StopRequest()
    workers = []
    for number in range(count):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        if cards:
            environment |= {
                "CUDA_VISIBLE_DEVICES": cards[number],
                "SELFTRANS_LEASED": cards[number],
            }
        command = [sys.executable, "-m", module, *arguments, "--worker", f"{number}/{count}"]
        worker = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)  # noqa: PLW1509
        workers.append(worker)
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
