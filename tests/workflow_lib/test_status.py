"""How runs are doing, read from files alone."""

import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console
from rich.text import Text

from selftrans.runs import read_runs
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json, write_json
from selftrans.runtime.lock import DirectoryLock
from tests.support import REPOSITORY
from tests.support.programs import run_command
from workflow.lib.runs import records, write_records
from workflow.lib.status import collect, seconds_left
from workflow.lib.status_view import ends_of, redraw, table_of

LOG = "2026-11-27 01:00:00 {run} seed 0: {step}/8 steps, {rate} steps/s, 0:02 left, loss {loss}\n"


@pytest.fixture
def results(make_study, tmp_path, monkeypatch) -> Path:
    """A folder of results in which nothing has happened yet."""
    study = make_study()
    monkeypatch.chdir(tmp_path)
    write_records(study)
    return tmp_path


def folder(results, run):
    return results / f"results/tiny/runs/{run}/seed0"


def written(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def finish(results, run, *steps):
    for step in steps:
        written(folder(results, run) / f"checkpoints/{step}/checkpoint.json", "{}")


def log(results, run, step, rate="2", loss="0.5", until=8, end=""):
    line = LOG.format(run=run, step=step, rate=rate, loss=loss)
    return written(folder(results, run) / f"logs/train-{until}.log", f"resuming\n{line}{end}")


def printed(shown, width=160):
    console = Console(width=width, file=io.StringIO())
    console.print(shown)
    return console.file.getvalue()


def rows(results):
    return {row.run: row for row in collect(results)}


def test_the_list_of_runs_says_where_each_lies(make_study, tmp_path, monkeypatch):
    study = make_study({"seeds": [0, 3]})
    monkeypatch.chdir(tmp_path)
    write_records(study)
    content = read_json(tmp_path / "results/tiny/runs.json")
    assert read_runs(tmp_path / "results/tiny/runs.json") == records(study, "tiny")
    assert [(run["run"], run["seed"]) for run in content["runs"]] == [
        (name, seed) for name in ("sit", "vae-align", "self-transcendence") for seed in (0, 3)
    ]
    last = content["runs"][-1]
    assert last["folder"] == "results/tiny/runs/self-transcendence/seed3"
    (teacher,) = last["teachers"]
    assert (teacher["run"], teacher["step"]) == ("vae-align", 4)
    assert teacher["term"] == "self-transcendence"
    assert teacher["file"].endswith("vae-align/seed3/teachers/4-raw-depth3.safetensors")
    assert last["metrics"]["8"].endswith("seed3/samples/8/ode-n20/classifier.json")
    before = (tmp_path / "results/tiny/runs.json").stat().st_mtime_ns
    write_records(study)
    assert (tmp_path / "results/tiny/runs.json").stat().st_mtime_ns == before


def test_an_experiment_links_what_tensorboard_shows_of_its_data(make_study, tmp_path, monkeypatch):
    study = make_study()
    monkeypatch.chdir(tmp_path)
    link = tmp_path / "results/tiny/tensorboard"
    link.parent.mkdir(parents=True)
    link.symlink_to("../data/another/tensorboard")
    for _ in range(2):
        write_records(study)
        assert link.readlink() == Path("../data/digits/tensorboard")
    written(tmp_path / "results/data/digits/tensorboard/autoencoder/events", "x")
    assert (link / "autoencoder/events").read_text() == "x"
    link.unlink()
    written(link / "mine", "x")
    write_records(study)
    assert (link / "mine").read_text() == "x"


def test_nothing_has_started(results):
    found = rows(results)
    assert {run: row.state for run, row in found.items()} == {
        "sit": "not started", "vae-align": "not started", "self-transcendence": "waiting",
    }  # fmt: skip
    assert found["self-transcendence"].note == "for vae-align at step 4"
    assert seconds_left(list(found.values())) == {"tiny": None}


def test_a_training_says_its_step_pace_and_end(results):
    finish(results, "sit", 4)
    log(results, "sit", 6, rate="0.5", loss="0.875")
    written(folder(results, "sit") / "state/step-00000005.safetensors")
    with DirectoryLock(folder(results, "sit") / "state"):
        row = rows(results)["sit"]
    assert (row.state, row.step, row.steps, row.next_checkpoint) == ("training", 6, 8, 8)
    assert (row.loss, row.steps_per_second, row.images_per_second) == (0.875, 0.5, 4.0)
    assert row.seconds_left == 4.0
    assert f"process {os.getpid()} on " in row.owner
    assert 0 <= row.saved_age < 60
    assert 0 <= row.heartbeat_age < 60


def test_one_that_stopped_is_where_it_was_saved(results):
    """What its log said of later steps is lost."""
    log(results, "sit", 7)
    written(folder(results, "sit") / "state/step-00000005.safetensors")
    row = rows(results)["sit"]
    assert (row.state, row.step, row.owner) == ("stopped", 5, "")


def test_an_owner_that_is_silent_trains_no_more(results):
    owner = {"host": "elsewhere", "pid": 4, "started": "1", "key": "k", "job": "77"}
    path = written(folder(results, "sit") / "state/owner.json", json.dumps(owner))
    assert rows(results)["sit"].owner == "process 4 on elsewhere, job 77"
    os.utime(path, (time.time() - 1000,) * 2)
    assert rows(results)["sit"].state == "not started"


@pytest.mark.parametrize("marked", [True, False])
def test_one_that_failed_says_why(results, marked):
    message = "results/x: loss or gradient is not finite at step 5"
    log(results, "sit", 4, end="" if marked else f"error: {message}\n")
    if marked:
        write_json(folder(results, "sit") / "state/failed-8.json", {"message": message})
    row = rows(results)["sit"]
    assert row.state == "failed"
    assert message in row.note


@pytest.mark.parametrize(
    ("job", "end"),
    [
        ("generate-8-ode-n20", "error: no space left"),
        ("statistics-8-ode-n20-classifier", "error in process 1: no space left"),
        ("metrics-8-ode-n20-classifier", "2026-11-27 01:00:00 error: no space left"),
        ("metrics-8-ode-n20-classifier", "Traceback\nValueError: no space left"),
    ],
)
def test_one_whose_evaluation_failed_says_why(results, job, end):
    finish(results, "sit", 4, 8)
    written(folder(results, "sit") / f"logs/{job}.log", f"20/20 images\n{end}\n")
    row = rows(results)["sit"]
    assert (row.state, row.step, row.seconds_left) == ("failed", 8, 0.0)
    assert row.note.startswith(f"{job}: ")
    assert row.note.endswith("no space left")
    written(folder(results, "sit") / "samples/8/ode-n20/classifier.json", '{"metrics": {}}')
    assert rows(results)["sit"].state == "finished"  # it was made since


def test_an_interrupted_one_has_not_failed(results):
    log(results, "sit", 4, end="interrupted: sit seed 0: SIGTERM at step 4; saved\n")
    written(folder(results, "sit") / "state/step-00000004.safetensors")
    assert rows(results)["sit"].state == "stopped"


def test_a_student_ends_after_its_teacher(results):
    """Teacher: 4 steps at 2 a second. Then 8 steps of its own, at the pace of the others."""
    log(results, "vae-align", 0, rate="2")
    with DirectoryLock(folder(results, "vae-align") / "state"):
        found = collect(results)
    left = {row.run: row.seconds_left for row in found}
    assert left == {"sit": 4.0, "vae-align": 4.0, "self-transcendence": 2.0 + 4.0}
    assert seconds_left(found) == {"tiny": 6.0}


def test_finished_ones_have_their_newest_number(results):
    for run in ("sit", "vae-align", "self-transcendence"):
        finish(results, run, 4, 8)
    metrics = folder(results, "sit") / "samples/{}/ode-n20/classifier.json"
    for step, fid in ((4, 9.0), (8, 3.5)):
        written(Path(str(metrics).format(step)), json.dumps({"metrics": {"fid": fid}}))
    found = rows(results)
    assert {row.state for row in found.values()} == {"finished"}
    assert (found["sit"].fid, found["sit"].fid_step) == (3.5, 8)
    assert seconds_left(list(found.values())) == {"tiny": 0.0}
    assert "3.50 at 8" in printed(table_of(list(found.values())))
    assert ends_of(list(found.values())).plain == "trainings end: tiny have ended"


def test_the_table_has_next_checkpoint_save_and_heartbeat(results):
    log(results, "sit", 6, rate="0.5", loss="0.875")
    save = written(folder(results, "sit") / "state/step-00000005.safetensors")
    os.utime(save, (time.time() - 754.2,) * 2)
    with DirectoryLock(folder(results, "sit") / "state") as lock:
        os.utime(lock.path, (time.time() - 9.2,) * 2)
        found = collect(results)
    (sit,) = (row for row in found if row.run == "sit")
    sit = replace(sit, fid=13.94, fid_step=2400, owner="process 4 on elsewhere, job 77")
    lines = printed(table_of([sit]), width=100).splitlines()
    assert max(map(len, lines)) <= 100
    first, below = (line.split() for line in lines[-2:])
    assert " ".join(first) == "sit 0 6/8 0.8750 4 12:34 0:04 13.94 at 2,400 training process 4 on"
    assert " ".join(below) == "next 4 0:09 elsewhere, job 77"


def test_what_a_run_fails_of_is_no_markup(results):
    log(results, "sit", 4, end="error: [bold] is [/unknown] (allowed: [red])\n")
    assert "[bold] is [/unknown] (allowed: [red])" in printed(table_of(collect(results)))


def test_a_redraw_in_a_small_terminal_keeps_what_matters(results, monkeypatch):
    finish(results, "sit", 4, 8)
    log(results, "vae-align", 4, end="error: on purpose\n")
    monkeypatch.setattr(time, "sleep", Mock(side_effect=[None, KeyboardInterrupt]))
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, height=7)
    redraw(results, screen)
    last = Text.from_ansi(screen.file.getvalue()).plain.splitlines()[-7:]
    assert "vae-align" in last[-3]
    assert "failed error: on purpose" in last[-3]
    assert last[-2].strip() == "not shown: 1 waiting, 1 finished"
    assert last[-1].startswith("trainings end: tiny ")


def test_the_command(results, monkeypatch):
    ended = run_command("--project", REPOSITORY, "status", "--directory", results, "--json")
    assert [row["run"] for row in json.loads(ended.stdout)] == [
        "sit", "vae-align", "self-transcendence",
    ]  # fmt: skip
    log(results, "vae-align", 0, rate="2")
    ended = run_command("--project", REPOSITORY, "status", "--directory", results, "--json")
    assert [row["experiment_seconds_left"] for row in json.loads(ended.stdout)] == [6.0] * 3
    monkeypatch.chdir(REPOSITORY / "docs")
    assert "waiting" in run_command("status", "--directory", results).stdout


def test_a_folder_without_results_is_said(tmp_path):
    with pytest.raises(UserError, match=r"results: holds no runs \(looked for: runs\.json"):
        collect(tmp_path)
