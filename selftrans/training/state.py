"""The state in progress: all that is needed to go on, in a directory that no rule declares.

One file holds one step: ``step-00002000.safetensors`` with the weights, their average, the heads, the optimizer's moments
and the logged losses. Files are written whole or not at all, so a kill at any moment leaves the older ones.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import write_json
from selftrans.runtime.logs import LOG
from selftrans.runtime.tensors import load_tensors, save_tensors

_STATE_NAME = re.compile(r"step-(\d{8,})\.safetensors")
KEPT_IN_PROGRESS = 2


class StateDirectory:
    """States of one run.

    Args:
        directory: where they lie.
        fingerprint: of the run's definition; a state of another one is refused.
    """

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self.directory, self.fingerprint = directory, fingerprint

    def steps(self) -> list[int]:
        """Steps that have a state, ascending."""
        found = (_STATE_NAME.fullmatch(path.name) for path in self.directory.glob("step-*.safetensors"))
        return sorted(int(match[1]) for match in found if match)

    def load_newest(self, until: int) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Step, tensors and metadata of the newest sound state that is not past ``until``; None if there is none.

        Raises:
            UserError: a state belongs to another run.
        """
        for step in reversed([step for step in self.steps() if step <= until]):
            try:
                tensors, metadata = load_tensors(self._path(step), "state")
            except UserError as error:
                LOG.warning("passing over a state that cannot be used: %s", error)
                continue
            if metadata["fingerprint"] != self.fingerprint:
                raise UserError(f"{self._path(step)}: belongs to a run of another definition")
            return step, tensors, metadata
        return None

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write the state of ``step``."""
        header = {**metadata, "step": step, "fingerprint": self.fingerprint}
        save_tensors(self._path(step), tensors, "state", header)

    def prune(self, now: int, milestones: Collection[int]) -> None:
        """Keep the milestones, the newest two states up to ``now``, and whatever lies beyond ``now``."""
        past = [step for step in self.steps() if step <= now]
        for step in past[:-KEPT_IN_PROGRESS]:
            if step not in milestones:
                self._path(step).unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:08}.safetensors"


HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 300.0


@contextlib.contextmanager
def sole_writer(directory: Path) -> Iterator[None]:
    """Hold ``directory`` as its only writer; works on network file systems, where an advisory lock may not.

    The owner's file names host, process and job, and its heartbeat is renewed all the time. An owner on this host that no
    longer runs, or one elsewhere whose heartbeat has stopped, is replaced.

    Raises:
        UserError: another process writes there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "owner.json"
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _process_start(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID", ""),
    }
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:  # atomic also on NFS
                json.dump(mine, file)
            break
        except FileExistsError:
            _give_way_or_clear(path)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            write_json(path, {**mine, "beat": time.time()})

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        path.unlink(missing_ok=True)


def _give_way_or_clear(path: Path) -> None:
    """Remove an abandoned owner's file, or say who holds the directory."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except json.JSONDecodeError:
        owner = {}  # created by a process that was killed before it could write
    if owner.get("host") == socket.gethostname():
        gone = _process_start(owner["pid"]) != owner["started"]
    else:
        LOG.info("%s: waiting to see whether %s still writes there", path.parent, owner.get("host", "its owner"))
        gone = _heartbeat_stops(path)
    if not gone:
        where = f"process {owner.get('pid')} on {owner.get('host')}"
        job = f", job {owner['job']}" if owner.get("job") else ""
        raise UserError(f"{path.parent}: another training writes there ({where}{job}); end it, or wait for it")
    path.unlink(missing_ok=True)


def _heartbeat_stops(path: Path) -> bool:
    """Whether an owner's file vanishes, or stays unchanged for as long as no living owner leaves it."""
    before = path.read_bytes() if path.exists() else b""
    for _ in range(int(STALE_SECONDS)):
        time.sleep(1)
        try:
            if path.read_bytes() != before:
                return False
        except FileNotFoundError:
            return True
    return True


def _process_start(pid: int) -> str | None:
    """When a process of this host started, in the kernel's ticks; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return _alive_without_proc(pid)
    return stat.rpartition(")")[2].split()[19]


def _alive_without_proc(pid: int) -> str | None:
    """The same where there is no /proc (macOS): only whether it runs."""
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
