"""The profile for any scheduler, on a Grid Engine simulated by processes of this machine."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.workplace import copy_project

pytestmark = pytest.mark.slow

PROFILE = REPOSITORY / "workflow/profiles/generic"
QSUB = """#!/usr/bin/env bash
echo "$@" >> "$HERE/requested"
while [[ $1 != -o ]]; do shift; done
setsid bash "${@: -1}" > "$2" 2>&1 < /dev/null &
echo $! | tee -a "$HERE/numbers"
"""
QSTAT = """#!/usr/bin/env bash
echo >> "$HERE/asked"
while read -r job; do
  if kill -0 "$job" 2> /dev/null; then echo "$job 0.5 job.sh me r today"; fi
done < "$HERE/numbers"
"""
COMMANDS = {
    "qsub": QSUB,
    "qstat": QSTAT,
    "qdel": 'echo "$1" >> "$HERE/deleted"; kill -KILL -- "-$1"\n',
}
SNAKEFILE = """
rule all:
    input: "quick", "slow"
rule work:
    output: "{name}"
    threads: 2
    resources:
        mem_mb=3000,
        runtime=90,
        warning=70,
        gpu=lambda wildcards: int(wildcards.name == "slow"),
    shell:
        "if [ {wildcards.name} = slow ]; then while [ ! -e go ]; do sleep 0.1; done; fi; "
        "echo $HERE > {output}"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        (tmp_path / "bin" / name).write_text(
            text if text.startswith("#!") else f"#!/usr/bin/env bash\n{text}"
        )
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    copy_project(tmp_path, "workflow/profiles")
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "asked").touch()
    yield tmp_path
    (tmp_path / "go").touch()  # what a failed test left waiting ends


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def snakemake():
    profile = [
        "--workflow-profile",
        "workflow/profiles/generic",
        "--seconds-between-status-checks",
        "5",
    ]
    with Path("said").open("w") as file:
        return subprocess.Popen(["snakemake", *profile], stdout=file, stderr=file)


def test_jobs_are_submitted_watched_and_cancelled(place):
    process = snakemake()
    wait_for((place / "quick").exists)
    wait_for(lambda: (place / "said").read_text().count("external jobid") == 2)
    # Now Snakemake watches both, and cancels the one that is left.
    wait_for(lambda: "1 of 3 steps" in (place / "said").read_text())
    requested = {
        line.rpartition("-l ")[2].split()[0]
        for line in (place / "requested").read_text().splitlines()
    }
    limits = (
        "mem_free=1500M,h_rt=5400,s_rt=5330"  # of one of two slots; seconds, and 70 before them
    )
    assert requested == {limits, f"{limits},gpu=1"}
    assert "-pe smp 2" in (place / "requested").read_text()
    # Snakemake misses a job that it is just asking after: press between two of its questions.
    asked = (place / "asked").stat().st_size
    wait_for(lambda: (place / "asked").stat().st_size > asked)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert len((place / "deleted").read_text().splitlines()) == 1
    assert not (place / "slow").exists()
    (place / "go").touch()
    process = snakemake()
    assert process.wait(120) == 0
    assert (place / "slow").read_text() == f"{place}\n"
    assert len((place / "requested").read_text().splitlines()) == 3


def said(script, *words):
    return subprocess.run(
        [PROFILE / f"{script}.sh", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def submitted(place, text):
    script = place / "script.sh"
    script.write_text(text)
    return said("submit", "1", "1000", "60", "60", "0", script)


def test_a_job_that_is_refused_is_an_error(place):
    (place / "bin/qsub").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(subprocess.CalledProcessError):
        submitted(place, "true\n")


@pytest.mark.parametrize(("code", "state"), [(0, "success"), (3, "failed")])
def test_how_a_job_ended_is_remembered(place, code, state):
    job = submitted(place, f"while [ ! -e go ]; do sleep 0.1; done; exit {code}\n")
    assert said("status", job) == "running"
    (place / "go").touch()
    wait_for(lambda: said("status", job) != "running")
    assert said("status", job) == state


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_warning_is_for_the_training_alone(place, number):
    """The signal goes to all processes of a job.

    The shell stays, and a program that did not request the signal never receives it.
    """
    job = submitted(place, "touch begun; while [ ! -e go ]; do sleep 0.1; done; exit 0\n")
    wait_for((place / "begun").exists)
    os.killpg(int(job.partition("@")[0]), number)
    (place / "go").touch()
    wait_for(lambda: said("status", job) != "running")
    assert said("status", job) == "success"


def test_a_job_that_disappears_has_failed_but_not_at_once(place):
    """Its word may still be on its way through a network file system: a minute is left to it."""
    job = submitted(place, "sleep 100\n")
    said("cancel", job)
    wait_for(lambda: (said("status", job), list((place / "results/cluster").glob("*.gone")))[1])
    assert said("status", job) == "running"
    (gone,) = (place / "results/cluster").glob("*.gone")
    os.utime(gone, (time.time() - 130,) * 2)
    assert said("status", job) == "failed"


@pytest.mark.parametrize(
    ("answer", "state"), [("exit 1", "running"), ("echo {} 0.5 job.sh me Eqw today", "gone")]
)
def test_no_answer_is_no_end_but_an_error_is(place, answer, state):
    job = submitted(place, "while [ ! -e go ]; do sleep 0.1; done\n")
    (gone,) = (place / "results/cluster").glob("job-????????")
    gone = gone.with_name(f"{gone.name}.gone")
    usual = (place / "bin/qstat").read_text()
    (place / "bin/qstat").write_text(f"#!/bin/sh\n{answer.format(job.partition('@')[0])}\n")
    assert said("status", job) == "running"
    assert gone.exists() == (state == "gone")
    (place / "bin/qstat").write_text(usual)
    assert said("status", job) == "running"
    assert not gone.exists()
