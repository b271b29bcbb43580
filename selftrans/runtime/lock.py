"""One writer at a time in a directory, also on network file systems without advisory locks.

The owner's file names host, process and job; it is created whole (by a hard link) and its
modification time is renewed regularly. An owner on this host that no longer runs, or one elsewhere
whose heartbeat has stopped, is replaced. A writer checks before every write that it still owns the
directory, so that one that was suspended and replaced stops.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from selftrans.runtime.errors import Interrupted, InUse
from selftrans.runtime.logs import LOG
from selftrans.runtime.signals import StopRequest

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 300.0
POLL_SECONDS = 1.0


class DirectoryLock:
    """Owns a directory within a ``with`` block.

    Args:
        directory: is created if it does not exist.
        stop: a signal's request, which ends the wait for an owner elsewhere.

    Raises:
        InUse: another process writes there.
        Interrupted: a signal arrived while waiting.
    """

    def __init__(self, directory: Path, stop: StopRequest | None = None) -> None:
        self.path = directory / "owner.json"
        self._stop = stop
        self._key = uuid.uuid4().hex
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "DirectoryLock":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._take():
            self._replace_or_give_way()
        self._heartbeat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._heartbeat.join()
        if self._owner().get("key") == self._key:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """To be called before every write.

        Raises:
            InUse: the directory belongs to another writer by now.
        """
        if self._owner().get("key") != self._key:
            raise InUse(
                f"{self.path.parent}: another process has taken over; nothing more is written here"
            )

    def _take(self) -> bool:
        pid = os.getpid()
        mine = {
            "host": socket.gethostname(),
            "pid": pid,
            "started": _process_start(pid),
            "key": self._key,
        }
        draft = self.path.with_name(f".owner.{self._key}")
        with draft.open("w", encoding="utf-8") as file:
            json.dump({**mine, "job": os.environ.get("SLURM_JOB_ID", "")}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _replace_or_give_way(self) -> None:
        """Remove an abandoned owner's file, or say who holds the directory."""
        owner = self._owner()
        if not owner:
            return
        if owner["host"] == socket.gethostname():
            gone = _process_start(owner["pid"]) != owner["started"]
        else:
            LOG.info(
                "%s: waiting to see whether %s still writes there", self.path.parent, owner["host"]
            )
            gone = self._heartbeat_stops()
        if not gone:
            job = f", job {owner['job']}" if owner["job"] else ""
            holder = f"process {owner['pid']} on {owner['host']}{job}"
            raise InUse(
                f"{self.path.parent}: another training writes there ({holder});"
                " end it, or wait for it"
            )
        # Moved before it is removed: if a third process was faster, its file is moved back.
        moved = self.path.with_name(f".owner.{self._key}.stale")
        try:
            self.path.rename(moved)
        except FileNotFoundError:
            return
        if _key_of(moved) != owner["key"] and not self.path.exists():
            os.link(moved, self.path)
        moved.unlink()

    def _heartbeat_stops(self) -> bool:
        """Whether an owner's file vanishes, or is not renewed for as long as a stale one."""
        before, until = _renewed(self.path), time.monotonic() + STALE_SECONDS
        while time.monotonic() < until:
            if self._stop is not None and self._stop.reason:
                raise Interrupted(
                    f"{self.path.parent}: {self._stop.reason} while waiting for its owner"
                )
            time.sleep(POLL_SECONDS)
            if (now := _renewed(self.path)) != before:
                return now is None
        return True

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            # A network file system may fail once in a while; the file may be another's by now.
            with contextlib.suppress(OSError):
                if self._owner().get("key") == self._key:
                    os.utime(self.path)

    def _owner(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError:  # empty after a power failure; its heartbeat shows a living owner
            return {"key": "", "host": "an unknown host", "pid": 0, "started": "", "job": ""}


def _key_of(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["key"])
    except ValueError:
        return ""


def _renewed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _process_start(pid: int) -> str | None:
    """When a process of this host started, in the kernel's ticks; None without such a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _running(pid)
    return stat.rpartition(")")[2].split()[19]


def _running(pid: int) -> str | None:
    """The same where there is no /proc (macOS): only whether it runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
