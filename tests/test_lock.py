"""One writer at a time, whoever dies, waits or sleeps."""

import json
import os
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest

from selftrans.runtime import lock
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.lock import DirectoryLock

ENTER = """
import os, sys
from pathlib import Path
from selftrans.runtime.lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
lock.__enter__()
os.kill(os.getpid(), 9)
"""


def enter_and_die(directory):
    return subprocess.run([sys.executable, "-c", ENTER, directory], capture_output=True, text=True)


def owned_elsewhere(directory, **changes):
    owner = {"host": "elsewhere", "pid": 1, "started": "1", "job": "77", "key": "theirs", **changes}
    (directory / "owner.json").write_text(json.dumps(owner))


@pytest.mark.slow
def test_a_second_writer_is_told_who_the_first_one_is(tmp_path):
    with DirectoryLock(tmp_path):
        assert (
            f"another process writes there (process {os.getpid()} on"
            in enter_and_die(tmp_path).stderr
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_dead_writer_is_replaced(tmp_path):
    enter_and_die(tmp_path)
    assert (tmp_path / "owner.json").exists()
    with DirectoryLock(tmp_path) as owner:
        owner.check()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_writer_elsewhere_is_replaced_only_when_its_heart_has_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.05)
    owned_elsewhere(tmp_path)
    started = time.monotonic()
    with DirectoryLock(tmp_path):
        assert time.monotonic() - started >= 0.5

    owned_elsewhere(tmp_path)
    beating = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys, time\nwhile True: os.utime(sys.argv[1]); time.sleep(0.1)",
            tmp_path / "owner.json",
        ]
    )
    try:
        with (
            pytest.raises(UserError, match=r"process 1 on elsewhere, job 77"),
            DirectoryLock(tmp_path),
        ):
            pass
    finally:
        beating.kill()
        beating.wait()


def test_an_owner_file_that_a_power_failure_emptied_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.05)
    (tmp_path / "owner.json").write_text("")
    with DirectoryLock(tmp_path) as writer:
        writer.check()
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_with_a_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.05)
    owned_elsewhere(tmp_path)

    class Stop:
        reason = "SIGTERM"

    with pytest.raises(Interrupted, match="SIGTERM while waiting"), DirectoryLock(tmp_path, Stop()):
        pass


def test_a_writer_that_was_replaced_writes_no_more_and_leaves_its_successor_alone(tmp_path):
    with DirectoryLock(tmp_path) as sleeper:
        owned_elsewhere(tmp_path)
        with pytest.raises(UserError, match="another process has taken over"):
            sleeper.check()
    assert json.loads((tmp_path / "owner.json").read_text())["key"] == "theirs"


@pytest.mark.slow
def test_of_many_that_find_a_dead_writer_one_gets_in(tmp_path):
    """Each that gets in holds for a while; the spans never overlap."""
    enter_and_die(tmp_path)
    code = """
import sys, time
from pathlib import Path
from selftrans.runtime.errors import UserError
from selftrans.runtime.lock import DirectoryLock
until = time.monotonic() + 20
while time.monotonic() < until:
    try:
        with DirectoryLock(Path(sys.argv[1])) as owner:
            start = time.monotonic()
            time.sleep(0.05)
            owner.check()
            print(start, time.monotonic())
            break
    except UserError:
        time.sleep(0.01)
"""
    children = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    spans = sorted(tuple(map(float, child.communicate()[0].split())) for child in children)
    assert [len(span) for span in spans] == [2] * 6
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", "null", "3", "{", "[" * 100_000, '{"host": 3}', "\0\0\0",
        json.dumps({"host": "a", "pid": "1", "started": "1", "key": "k"}),
        json.dumps({"host": "a", "pid": 0, "started": "1", "key": "k"}),
        json.dumps({"host": "a", "pid": 1, "started": "1", "key": ""}),
        json.dumps({"host": "a", "pid": 1, "started": "1", "key": None}),
        json.dumps({"host": "a", "pid": 10**400, "started": "1", "key": "k"}),
        json.dumps({"hist": "a", "pid": 1, "started": "1", "key": "k"}),
    ],
)  # fmt: skip
def test_a_damaged_owner_is_waited_for_and_replaced(tmp_path, monkeypatch, caplog, content):
    """Its heartbeat may still be heard; nothing loops without a word, nothing fails."""
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.1)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.02)
    caplog.set_level("INFO")
    (tmp_path / "owner.json").write_text(content)
    with DirectoryLock(tmp_path) as writer:
        writer.check()
    assert "waiting for process 1 on an unknown host" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_in_an_owners_place_is_refused(tmp_path, make):
    make(tmp_path / "owner.json")
    with pytest.raises(UserError, match=r"owner\.json: is a "), DirectoryLock(tmp_path):
        pass


@pytest.mark.slow
def test_who_waits_gets_in_when_the_other_one_ends(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.02)
    caplog.set_level("INFO")
    first = threading.Event()

    def hold():
        with DirectoryLock(tmp_path, file="samples.npz"):
            first.set()
            time.sleep(0.3)

    other = threading.Thread(target=hold)
    other.start()
    first.wait()
    with DirectoryLock(tmp_path, file="samples.npz", wait=True) as owner:
        owner.check()
    other.join()
    assert caplog.text.count(f"samples.npz: waiting for process {os.getpid()}") == 1


def test_an_owner_elsewhere_that_ends_is_followed(tmp_path, monkeypatch):
    """It ends while it is watched: no need to wait until its heartbeat would be stale."""
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.02)
    owned_elsewhere(tmp_path)
    threading.Timer(0.1, (tmp_path / "owner.json").unlink).start()
    started = time.monotonic()
    with DirectoryLock(tmp_path, wait=True):
        assert time.monotonic() - started < 5
