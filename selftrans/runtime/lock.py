"""One writer at a time in a directory, also on network file systems without advisory locks.

The owner's file names host, process and job; it is created whole (by a hard link) and its
modification time is renewed regularly. An owner on this host that no longer runs, or one elsewhere
whose heartbeat has stopped, is replaced. A writer checks before every write that it still owns the
directory, so that one that was suspended and replaced stops. A training gives way to a living
owner; what works for hours without a state of its own waits for it, and takes what it finished.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selftrans.runtime.errors import Interrupted, InUse, Unavailable, UserError
from selftrans.runtime.files import opened, writing
from selftrans.runtime.logs import LOG
from selftrans.runtime.signals import StopRequest

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 300.0
POLL_SECONDS = 1.0


class Owner(BaseModel):
    """What an owner's file says."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    host: str = Field(max_length=255)
    pid: int = Field(ge=1, lt=2**31)
    started: str | None = Field(max_length=40)
    key: str = Field(min_length=1, max_length=40)
    job: str = Field("", max_length=255)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", job {self.job}" if self.job else "")


_UNKNOWN = Owner(host="an unknown host", pid=1, started=None, key="unknown")
"""Of a file that is empty or damaged, as after a power failure: only its heartbeat says more."""


class DirectoryLock:
    """Owns a directory, or a file in it, within a ``with`` block.

    Args:
        directory: is created if it does not exist.
        stop: a signal's request, which ends the wait for an owner elsewhere.
        file: the one in it that is owned; without it, the whole directory is.
        wait: wait for an owner that lives, instead of giving way.

    Raises:
        InUse: another process writes there.
        Interrupted: a signal arrived while waiting.
        UserError: something that is no file lies in the place of the owner's.
    """

    def __init__(
        self,
        directory: Path,
        stop: StopRequest | None = None,
        *,
        file: str | None = None,
        wait: bool = False,
    ) -> None:
        self.path = directory / (f"{file}.owner.json" if file else "owner.json")
        self._owned = directory / file if file else directory
        self._stop, self._wait, self._said = stop, wait, False
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
        if self._is_mine():
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """To be called before every write.

        Raises:
            InUse: the directory belongs to another writer by now.
        """
        if not self._is_mine():
            raise InUse(
                f"{self._owned}: another process has taken over; nothing more is written here"
            )

    def _is_mine(self) -> bool:
        owner = read_owner(self.path)
        return owner is not None and owner.key == self._key

    def _take(self) -> bool:
        pid = os.getpid()
        mine = Owner(
            host=socket.gethostname(),
            pid=pid,
            started=_process_start(pid),
            key=self._key,
            job=os.environ.get("SLURM_JOB_ID", ""),
        )
        draft = self.path.with_name(f".owner.{self._key}")
        with writing(self.path):
            try:
                with draft.open("w", encoding="utf-8") as file:
                    file.write(mine.model_dump_json())
                    file.flush()
                    os.fsync(file.fileno())
                os.link(draft, self.path)
            except FileExistsError:
                return False
            finally:
                draft.unlink(missing_ok=True)
        return True

    def _replace_or_give_way(self) -> None:
        """Remove an abandoned owner's file; wait for one that lives, or say who it is."""
        owner = read_owner(self.path)
        if owner is None:
            return
        if owner.host == socket.gethostname():
            gone = not is_alive(owner)
        else:
            self._say(owner, "to see whether it still writes there")
            gone = self._heartbeat_stops()
        if not gone:
            if not self._wait:
                raise InUse(
                    f"{self._owned}: another process writes there ({owner}); end it, or wait for it"
                )
            self._say(owner, "until it ends")
            self._pause()
            return
        # Moved before it is removed: if a third process was faster, its file is moved back.
        moved = self.path.with_name(f".owner.{self._key}.stale")
        try:
            self.path.rename(moved)
        except FileNotFoundError:
            return
        now = read_owner(moved)
        if now is not None and now.key != owner.key:
            with contextlib.suppress(FileExistsError):
                os.link(moved, self.path)
        moved.unlink()

    def _say(self, owner: Owner, what: str) -> None:
        if not self._said:
            LOG.info("%s: waiting for %s, %s", self._owned, owner, what)
        self._said = True

    def _pause(self) -> None:
        if self._stop is not None and self._stop.reason:
            raise Interrupted(f"{self._owned}: {self._stop.reason} while waiting for its owner")
        time.sleep(POLL_SECONDS)

    def _heartbeat_stops(self) -> bool:
        """Whether an owner's file vanishes, or is not renewed for as long as a stale one."""
        before, until = _renewed(self.path), time.monotonic() + STALE_SECONDS
        while time.monotonic() < until:
            self._pause()
            if (now := _renewed(self.path)) != before:
                return now is None
        return True

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            # A network file system may fail once in a while; the file may be another's by now.
            with contextlib.suppress(OSError, UserError):
                if self._is_mine():
                    os.utime(self.path)


def read_owner(path: Path) -> Owner | None:
    """Whose file it is; None without one.

    Raises:
        UserError: it is no file.
    """
    try:
        with opened(path) as file:
            return Owner.model_validate_json(file.read())
    except ValidationError:
        return _UNKNOWN
    except Unavailable:
        if not os.path.lexists(path):
            return None
        raise


def is_alive(owner: Owner) -> bool:
    """Whether an owner on this host still runs."""
    return _process_start(owner.pid) == owner.started


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
