"""A program that is forked does what it does when it is started by itself."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selftrans.runtime.fork_server import PRESENT, ForkServer, Program, python
from tests.support.trainings import words_of
from workflow.lib.forking import fork_jobs

PROBE = Program("probe", "python", ("-m", "probe"))
PROBE_CODE = """
import json, os, pathlib, signal, sys, time

FORKED = "probe" in sys.modules

def stop(*_):
    print("stopped", flush=True)
    sys.exit(5)

def main():
    ending = sys.argv[1] if len(sys.argv) > 1 else ""
    inherited = ("PATH", "SELFTRANS_FORK_SERVER", "PYTHONPATH")
    environment = {key: os.environ[key] for key in sorted(os.environ) if key not in inherited}
    print(json.dumps([sys.argv[1:], os.getcwd(), environment, sys.stdin.read(), sys.path[0]]))
    if ending == "code": sys.exit(3)
    if ending == "text": sys.exit("one line")
    if ending == "raise": raise ValueError("a fault")
    if ending == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if ending == "forked": print(FORKED)
    if ending == "sleep":
        signal.signal(signal.SIGTERM, stop)
        pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))
        time.sleep(60)
    if ending == "late":
        pathlib.Path("begun").touch()
        time.sleep(1)
        pathlib.Path("late").touch()

if __name__ == "__main__":
    main()
"""
STARTER = """
import os, pathlib, subprocess, sys, time
from selftrans.runtime.fork_server import ForkServer, Program

server = ForkServer([Program("probe", "python", ("-m", "probe"))], [])
print(server.environment["PATH"].partition(":")[0], flush=True)
subprocess.Popen(["python", "-m", "probe", "late"], env={**os.environ, **server.environment},
                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
while not pathlib.Path("begun").exists():
    time.sleep(0.02)
"""


def wait_for(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def forked():
    """What a server's programs are found by; it has imported nothing."""
    server = ForkServer([PROBE], [])
    yield server.environment
    server.stop()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE_CODE)
    return tmp_path


def probe(folder, environment, *words):
    environment = {**os.environ, **environment, "GIVEN": "é"}
    found = shutil.which("python", path=environment["PATH"])
    return subprocess.run(
        [found, "-m", "probe", *words], cwd=folder, env=environment,
        input="from\nstdin", capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "code"), [("", 0), ("code", 3), ("text", 1), ("raise", 1), ("killed", 137)]
)
def test_a_forked_program_is_that_program(folder, forked, ending, code):
    alone, by_server = (probe(folder, env, ending, "a b") for env in ({}, forked))
    assert by_server.stdout == alone.stdout
    assert by_server.stderr.splitlines()[-1:] == alone.stderr.splitlines()[-1:]
    assert (
        by_server.returncode
        == code
        == (alone.returncode if alone.returncode >= 0 else 128 - alone.returncode)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "shown"),
    [([], "True"), (["--device", "cpu"], "True"), (["--device", "cuda"], "False")],
)
def test_what_uses_a_gpu_is_not_forked(folder, forked, device, shown):
    assert probe(folder, forked, "forked", *device).stdout.splitlines()[-1] == shown


@pytest.mark.slow
def test_another_program_of_python_is_started_as_ever(forked):
    said = subprocess.run(
        [forked[PRESENT], "-c", "print(6 * 7)"], env=forked, capture_output=True, text=True
    )
    assert (said.returncode, said.stdout) == (0, "42\n")


@pytest.mark.slow
def test_signals_are_passed_on_and_who_asked_takes_the_program_along(folder, forked):

    def sleeping():
        written = folder / "pid"
        written.unlink(missing_ok=True)
        asked = subprocess.Popen(
            [forked[PRESENT], "-m", "probe", "sleep", str(written)], cwd=folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        wait_for(lambda: written.exists() and written.read_text())
        return asked, Path(f"/proc/{written.read_text()}")

    asked, program = sleeping()
    asked.terminate()
    said, _ = asked.communicate(timeout=60)
    assert (asked.returncode, said.splitlines()[-1]) == (5, "stopped")
    asked, program = sleeping()
    assert program.exists()
    asked.kill()
    wait_for(lambda: not program.exists())


@pytest.mark.slow
def test_the_server_ends_with_its_starter_after_the_last_program(folder):
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    programs = Path(starter.stdout.readline().strip())
    assert starter.wait(timeout=60) == 0
    assert programs.exists()
    assert not (folder / "late").exists()
    wait_for((folder / "late").exists)
    wait_for(lambda: not programs.exists())


@pytest.mark.slow
def test_a_forked_training_is_that_of_a_process_of_its_own(tiny, manifest, tmp_path):
    """With two threads, too, to the bit; one server for all, so nothing stays of the one before."""
    server = ForkServer(modules=["selftrans.training.trainer"])
    written = []
    for number, (forked, threads) in enumerate([(1, 1), (1, 2), (0, 2)]):
        directory = tmp_path / str(number)
        _, *words = words_of(tiny(), "sit", directory, manifest, 4, None)
        environment = {
            **os.environ, **(server.environment if forked else {}), "OMP_NUM_THREADS": str(threads),
        }  # fmt: skip
        started = environment.get(PRESENT, sys.executable)
        subprocess.run([started, *words], env=environment, check=True, capture_output=True)
        written.append((directory / "checkpoints/4/raw.safetensors").read_bytes())
    server.stop()
    one_thread, two_threads, alone = written
    assert one_thread != two_threads == alone


def test_further_processes_of_a_forked_program_are_forked(monkeypatch):
    monkeypatch.delenv(PRESENT, raising=False)
    assert python() == sys.executable
    monkeypatch.setenv(PRESENT, "/a/stand-in")
    assert python() == "/a/stand-in"


@pytest.mark.parametrize(
    ("count", "present", "platform", "starts"),
    [(4, False, "linux", True), (3, False, "linux", False), (99, True, "linux", False),
     (99, False, "darwin", False)],
)  # fmt: skip
def test_jobs_are_forked_where_that_pays(monkeypatch, count, present, platform, starts):
    started = []

    class Started:
        def __init__(self):
            self.environment = {"PATH": "stand-in", PRESENT: "1"}
            started.append(self)

        def stop(self):
            started.clear()

    at_exit = []
    monkeypatch.setattr("workflow.lib.forking.ForkServer", Started)
    monkeypatch.setattr("atexit.register", at_exit.append)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.delenv(PRESENT, raising=False)
    if present:
        monkeypatch.setenv(PRESENT, "1")
    fork_jobs(count)
    assert (os.environ["PATH"] == "stand-in") is starts is bool(started)
    for stop in at_exit:
        stop()
    assert not started
