"""Snakemake's scheduler looks for jobs as often as it has to, and keeps its rate limit."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from snakemake.scheduling.job_scheduler import JobRateLimiter, JobScheduler
from snakemake.settings.types import MaxJobsPerTimespan

from tests.support.projects import REPOSITORY
from workflow.lib.looking import look_when_needed

JOBS, LIMIT = 12, 4

SNAKEFILE = f"""
from workflow.lib.looking import look_when_needed

onstart:
    look_when_needed(workflow.scheduler)

rule all:
    input: expand("{{number}}.txt", number=range({JOBS}))

rule one:
    output: "{{number}}.txt"
    shell: "date +%s.%N > {{output}}; sleep 0.5"
"""


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def scheduler_of(limit):
    later = []
    return later, SimpleNamespace(
        job_rate_limiter=JobRateLimiter(limit), _schedule_reevalutation=later.append
    )


def test_it_looks_again_where_the_limit_held_jobs_and_once(clock):
    later, scheduler = scheduler_of(MaxJobsPerTimespan(2, "1s"))
    look_when_needed(scheduler)
    scheduler.job_rate_limiter.register_jobs(1)
    scheduler._schedule_reevalutation(1.0)
    assert later == []  # one more could have started
    scheduler.job_rate_limiter.register_jobs(1)
    for _ in range(3):  # looks, as jobs end
        scheduler._schedule_reevalutation(1.0)
    assert later == [1.0]
    clock[0] += 1.0  # the look that was planned finds jobs for as much as the limit allows
    scheduler.job_rate_limiter.get_free_jobs()
    scheduler.job_rate_limiter.register_jobs(2)
    scheduler._schedule_reevalutation(1.0)
    assert later == [1.0, 1.0]


def test_a_scheduler_without_a_limit_stays_as_it_is():
    scheduler = SimpleNamespace(job_rate_limiter=None, _schedule_reevalutation=print)
    look_when_needed(scheduler)
    assert scheduler._schedule_reevalutation is print


def test_the_installed_snakemake_has_what_is_replaced():
    assert callable(JobScheduler._schedule_reevalutation)


def run_jobs(directory, *options):
    """The looks of the scheduler at every job, one after another or at once, and their starts."""
    (directory / "Snakefile").write_text(SNAKEFILE)
    ended = subprocess.run(
        [sys.executable, "-m", "snakemake", "--verbose", *options],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    output = ended.stdout + ended.stderr
    assert ended.returncode == 0, output
    starts = [float((directory / f"{number}.txt").read_text()) for number in range(JOBS)]
    return output.count("Ready jobs: "), sorted(starts)


@pytest.mark.workflow
def test_each_job_that_ends_is_worth_one_look(tmp_path):
    looks, _ = run_jobs(tmp_path, "--cores", "2")
    # one when Snakemake starts, one for each of the jobs and for `all`, and none by the clock
    assert looks <= JOBS + 2


@pytest.mark.workflow
def test_the_rate_limit_holds(tmp_path):
    _, starts = run_jobs(tmp_path, "--cores", "6", "--max-jobs-per-timespan", f"{LIMIT}/2s")
    # a job writes its time a moment after Snakemake has counted it
    for first, later in zip(starts, starts[LIMIT:], strict=False):
        assert later - first > 1.5
