"""Work shared among processes: alone, started, and as a worker it gives the same."""

import subprocess
import sys
import time

import pytest
import torch

from selftrans.runtime.fork_server import ForkServer, Program
from selftrans.runtime.lock import DirectoryLock
from selftrans.runtime.starter import PRESENT
from selftrans.runtime.workers import Shard, Workers, run_sharded

PROGRAM = """
import os, sys, time
from argparse import ArgumentParser
from pathlib import Path
from selftrans.runtime.lock import DirectoryLock
from selftrans.runtime.workers import Shard, Workers, run_sharded

class Squares:
    def __init__(self, directory):
        self.directory = directory

    def is_finished(self):
        return (self.directory / "whole").exists()

    def remove_shares(self):
        if "tidy" in sys.argv:
            for share in self.directory.glob("share-*"):
                share.unlink()

    def run(self, shard):
        if "fail" in sys.argv and shard.rank == 1:
            sys.exit("error: worker 1 fails")
        lines = [f"{index**2} {os.environ['OMP_NUM_THREADS']}" for index in shard.span(5)]
        (self.directory / f"share-{shard.rank}").write_text("\\n".join(lines))

    def finish(self, world_size):
        shares = [(self.directory / f"share-{rank}").read_text() for rank in range(world_size)]
        (self.directory / "whole").write_text("\\n".join(shares))

def main():
    parser = ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", type=Shard.parse)
    arguments = parser.parse_args()
    command = (sys.executable, *sys.orig_argv[1:])
    workers = Workers(arguments.device, arguments.processes, arguments.worker, command)
    if "slow" in sys.argv:
        (arguments.directory / "ready").touch()
        time.sleep(2)
    owner = DirectoryLock(arguments.directory, wait=True)
    run_sharded(workers, lambda device: Squares(arguments.directory), owner, most=2)

if __name__ == "__main__":
    main()
"""


def squares(directory, *options):
    (directory / "squares.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "squares", str(directory), *options]
    environment = {"OMP_NUM_THREADS": "4", "PYTHONPATH": f"{':'.join(sys.path)}:{directory}"}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "used"), [(1, 1), (3, 2)])
def test_any_number_of_processes_gives_the_same_whole(tmp_path, processes, used):
    ended = squares(tmp_path, "--processes", str(processes))
    assert ended.returncode == 0, ended.stderr
    words = (tmp_path / "whole").read_text().split()
    assert words[::2] == ["0", "1", "4", "9", "16"]
    assert set(words[1::2]) == {str(max(1, 4 // used))}
    assert len(list(tmp_path.glob("share-*"))) == used


@pytest.mark.slow
def test_a_failing_worker_ends_the_work_without_a_whole(tmp_path):
    ended = squares(tmp_path, "fail", "--processes", "2")
    assert ended.returncode == 1
    assert "error: worker 1 fails" in ended.stderr
    assert not (tmp_path / "whole").exists()


@pytest.mark.slow
@pytest.mark.parametrize("orphan", [False, True])
@pytest.mark.parametrize("forked", [False, True])
def test_shares_are_kept_for_whoever_starts_an_orphans_work_again(tmp_path, orphan, forked):
    """A workflow that was killed deletes the whole and starts its job again."""
    (tmp_path / "squares.py").write_text(PROGRAM)
    server = ForkServer([Program("squares", "python", ("-m", "squares"))], []) if forked else None
    started = server.environment[PRESENT] if server else sys.executable
    words = f"{started} -m squares {tmp_path} tidy slow"
    # The shell waits for its child, or leaves it behind while it works.
    until_ready = f"while [ ! -e {tmp_path}/ready ]; do sleep 0.1; done"
    command = f"{words} & {until_ready}" if orphan else f"{words}; true"
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{':'.join(sys.path)}:{tmp_path}"}
    subprocess.run(command, shell=True, cwd=tmp_path, env=environment, check=True)
    until = time.monotonic() + 60
    while not (tmp_path / "whole").exists() or (tmp_path / "owner.json").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    if server:
        server.stop()
    assert len(list(tmp_path.glob("share-*"))) == (1 if orphan else 0)


class Recorded:
    def __init__(self, finished=False):
        self.calls, self.finished = [], finished

    def is_finished(self):
        return self.finished

    def remove_shares(self):
        self.calls.append("removed")

    def run(self, shard):
        self.calls.append(shard)

    def finish(self, world_size):
        self.calls.append(world_size)


def test_one_process_does_all_and_finishes_and_a_worker_does_only_its_share(tmp_path):
    alone, worker, devices = Recorded(), Recorded(), []
    owner = DirectoryLock(tmp_path)
    run_sharded(Workers(), lambda device: devices.append(device) or alone, owner)
    run_sharded(
        Workers(processes=3, shard=Shard(2, 3)),
        lambda device: devices.append(device) or worker,
        DirectoryLock(tmp_path),
    )
    assert alone.calls == [Shard.all(), 1, "removed"]
    assert worker.calls == [Shard(2, 3)]
    assert devices == [torch.device("cpu")] * 2


def test_what_another_process_has_finished_is_taken(tmp_path):
    work = Recorded(finished=True)
    run_sharded(Workers(processes=4), lambda _: work, DirectoryLock(tmp_path))
    assert work.calls == ["removed"]


def test_spans_tile_the_items():
    for count in (0, 1, 7, 12):
        for world_size in (1, 2, 5):
            spans = [Shard(rank, world_size).span(count) for rank in range(world_size)]
            assert [index for span in spans for index in span] == list(range(count))
            assert max(map(len, spans)) - min(map(len, spans)) <= 1
