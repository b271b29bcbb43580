"""A program that is forked does what it does when it is started by itself."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from selftrans.runtime.fork_server import SELFTRANS, ForkServer, Program
from selftrans.runtime.starter import PRESENT, python
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
    inherited = ("PATH", "PWD", "SELFTRANS_FORK_SERVER")
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
        while not pathlib.Path("go").exists(): time.sleep(0.02)
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


def serving(*given, **environment):
    """A server, and what its programs are found by; stopped by the test."""
    server = ForkServer(*given)
    return server, {**server.environment, "OMP_NUM_THREADS": "1", **environment}


@pytest.fixture(scope="module")
def forked():
    """What a server's programs are found by; it has imported nothing."""
    server, environment = serving([PROBE], [])
    yield environment
    server.stop()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE_CODE)
    return tmp_path


def probe(folder, environment, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment, "GIVEN": "é"}
    return subprocess.run(
        [environment.get(PRESENT, sys.executable), "-m", "probe", *words], cwd=folder,
        env=environment, input="from\nstdin", capture_output=True, text=True,
    )  # fmt: skip


def sleeping(folder, forked):
    """A program that waits for a signal: what stands for it, and its own process."""
    written = folder / "pid"
    written.unlink(missing_ok=True)
    asked = subprocess.Popen(
        [forked[PRESENT], "-m", "probe", "sleep", str(written)], cwd=folder, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={**os.environ, **forked},
    )  # fmt: skip
    wait_for(lambda: written.exists() and written.read_text())
    return asked, int(written.read_text())


def assert_stopped(asked):
    said, _ = asked.communicate(timeout=60)
    assert (asked.returncode, said.splitlines()[-1]) == (5, "stopped")


def is_forked(folder, environment, *words):
    return {"True": True, "False": False}[
        probe(folder, environment, "forked", *words).stdout.splitlines()[-1]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "code", "text", "raise", "killed"])
def test_a_forked_program_is_that_program(folder, forked, ending):
    alone, by_server = (probe(folder, env, ending, "a b") for env in ({}, forked))
    assert by_server.stdout == alone.stdout
    assert by_server.stderr.splitlines()[-1:] == alone.stderr.splitlines()[-1:]
    assert by_server.returncode == alone.returncode


@pytest.mark.slow
def test_what_asks_for_a_gpu_or_threads_is_started_as_ever(folder):
    server, environment = serving([replace(PROBE, further=("--device", "cpu"))], [])
    assert is_forked(folder, environment, "--device", "cpu")
    for words in (["--device", "cuda"], ["--device=cpu"], ["--device"], ["cpu"], []):
        assert not is_forked(folder, environment, *words)
    assert not is_forked(folder, {**environment, "OMP_NUM_THREADS": "2"}, "--device", "cpu")
    said = subprocess.run([environment[PRESENT], "-c", "print(6 * 7)"], stdout=subprocess.PIPE)
    assert said.stdout == b"42\n"
    server.stop()


@pytest.mark.slow
def test_signals_are_passed_on_and_who_asked_takes_the_program_along(folder, forked):
    asked, _ = sleeping(folder, forked)
    asked.terminate()
    assert_stopped(asked)
    asked, program = sleeping(folder, forked)
    asked.kill()
    wait_for(lambda: not Path(f"/proc/{program}").exists())


@pytest.mark.slow
def test_a_signal_to_all_processes_is_the_programs(folder):
    """As a scheduler sends it: server and guard go on until the program has saved."""
    server, environment = serving([PROBE], [])
    asked, program = sleeping(folder, environment)
    guard = Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[1]
    for process in (server._process.pid, int(guard), asked.pid):
        os.kill(process, signal.SIGTERM)
    assert_stopped(asked)
    server.stop()


@pytest.mark.slow
def test_who_is_gone_before_the_imports_has_started_nothing(folder, monkeypatch):
    (folder / "slow_import.py").write_text(
        "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\n"
    )
    monkeypatch.chdir(folder)
    server, environment = serving([PROBE], ["slow_import"])
    asked = subprocess.Popen(
        [environment[PRESENT], "-m", "probe", "late"], cwd=folder, env={**os.environ, **environment}
    )
    while Path(f"/proc/{asked.pid}/comm").read_text() == "sh\n":
        time.sleep(0.02)
    time.sleep(0.2)
    asked.terminate()
    assert asked.wait() == -signal.SIGTERM
    (folder / "go").touch()
    server.stop()
    assert not (folder / "begun").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["while it imports", "later"])
def test_without_its_server_a_program_is_started_as_ever(folder, ends):
    server, environment = serving([PROBE], ["no_such_module"] if ends == "while it imports" else [])
    if ends == "later":
        assert is_forked(folder, environment)
        server._process.kill()
        server._process.wait()
    assert not is_forked(folder, environment)
    server.stop()


@pytest.mark.slow
def test_the_server_ends_with_its_starter_after_the_last_program(folder):
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER], cwd=folder, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    programs = Path(starter.stdout.readline().strip())
    assert starter.wait(timeout=60) == 0
    assert programs.exists()
    assert not (folder / "late").exists()
    (folder / "go").touch()
    wait_for((folder / "late").exists)
    wait_for(lambda: not programs.exists())


@pytest.mark.slow
def test_a_forked_training_is_that_of_a_process_of_its_own(tiny, manifest, tmp_path):
    """To the bit, and the second one of a server, too."""
    server, environment = serving([SELFTRANS], ["selftrans.training.trainer"])
    written = []
    for number, forked in enumerate([environment, environment, {"OMP_NUM_THREADS": "1"}]):
        directory = tmp_path / str(number)
        _, *words = words_of(tiny(), "sit", directory, manifest, 4, None, "--device", "cpu")
        started = forked.get(PRESENT, sys.executable)
        subprocess.run(
            [started, *words], env={**os.environ, **forked}, check=True, capture_output=True
        )
        written.append((directory / "checkpoints/4/raw.safetensors").read_bytes())
    server.stop()
    assert written[0] == written[1] == written[2]


def test_further_processes_of_a_forked_program_are_forked(monkeypatch):
    monkeypatch.delenv(PRESENT, raising=False)
    assert python() == sys.executable
    monkeypatch.setenv(PRESENT, "/a/stand-in")
    assert python() == "/a/stand-in"


class Job:
    is_shell, threads = True, 1

    def __init__(self, **changes):
        self.resources = {"device": "cpu"}
        vars(self).update(changes)


@pytest.mark.parametrize(
    ("changes", "present", "platform", "path", "starts"),
    [
        ({}, {}, "linux", sys.executable, True),
        ({"threads": 2}, {}, "linux", sys.executable, False),
        ({"is_shell": False}, {}, "linux", sys.executable, False),
        ({"resources": {"device": "cuda"}}, {}, "linux", sys.executable, False),
        ({"resources": {}}, {}, "linux", sys.executable, False),
        ({}, {PRESENT: "already"}, "linux", sys.executable, False),
        ({}, {}, "darwin", sys.executable, False),
        ({}, {}, "linux", "/another/python", False),
        ({}, {}, "linux", None, False),
    ],
)
def test_jobs_are_forked_where_that_pays(monkeypatch, changes, present, platform, path, starts):
    stopped = []

    class Started:
        environment = MappingProxyType({"PATH": "stand-in", PRESENT: "stand-in/python"})

        def stop(self):
            stopped.append(self)

    at_exit = []
    environment = {**{key: value for key, value in os.environ.items() if key != PRESENT}, **present}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr("workflow.lib.forking.ForkServer", Started)
    monkeypatch.setattr("atexit.register", at_exit.append)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(shutil, "which", lambda name: path)
    fork_jobs([Job(), Job(), Job(), Job(**changes)])
    assert (environment["PATH"] == "stand-in") is starts
    for stop in at_exit:
        stop()
    assert len(stopped) == starts


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["too long for a socket", "nothing runs there"])
def test_a_server_that_cannot_work_leaves_nothing_behind(tmp_path, monkeypatch, wrong):
    folder = tmp_path / ("long" * 30 if wrong == "too long for a socket" else "short")
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    if wrong == "nothing runs there":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(OSError, match=r"AF_UNIX path too long|does not run"):
        ForkServer([PROBE], [])
    assert not list(folder.iterdir())


@pytest.mark.parametrize("problem", [OSError, AttributeError])
def test_a_system_that_lets_nothing_fork_starts_jobs_as_ever(monkeypatch, problem):
    def fails():
        raise problem

    monkeypatch.setattr(os, "environ", {"PATH": "as ever"})
    monkeypatch.setattr("workflow.lib.forking.ForkServer", fails)
    monkeypatch.setattr(shutil, "which", lambda name: sys.executable)
    fork_jobs([Job()] * 4)
    assert os.environ == {"PATH": "as ever"}
