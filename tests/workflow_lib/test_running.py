"""``selftrans run``: the command that it stands for, and experiments with changes."""

import os
import signal
import subprocess
import sys

import pytest

from selftrans.config import load_experiment
from selftrans.runtime.errors import UserError
from tests.support import REPOSITORY
from tests.support.programs import last_line, run_command
from tests.support.workplace import WORKFLOW, copy_project
from workflow.lib.running import Call, changed_name, parse_changes, write_changed


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """A project's folder with experiments of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    for path in (REPOSITORY / "experiments").iterdir():
        (tmp_path / "experiments" / path.name).symlink_to(path)
    return tmp_path / "experiments"


@pytest.mark.parametrize(
    ("call", "command"),
    [
        (Call(), "snakemake --cores all"),
        (
            Call(("imagenet256-b2",), gpus=8),
            "snakemake --cores all --resources gpu=8 --config 'experiments=[imagenet256-b2]'",
        ),
        (
            Call(("digits", "my/own.yaml"), "evaluate", "4", dry_run=True),
            "snakemake evaluate --cores 4 --dry-run --config 'experiments=[digits,my/own.yaml]'",
        ),
        (
            Call(profile="slurm", others=("--jobs=3",)),
            "snakemake --workflow-profile workflow/profiles/slurm --jobs=3",
        ),
    ],
)
def test_the_command_that_it_stands_for(call, command):
    assert call.shown() == command


def test_a_changed_experiment_keeps_its_own_keys(experiments):
    for change in ("extends=other", "name=other"):
        with pytest.raises(UserError, match="is set by this command"):
            write_changed("digits", (change,))
    with pytest.raises(UserError, match=r"--name: 'a/b' is no name \(allowed: letters, digits"):
        write_changed("digits", ("seeds=[1]",), "a/b")


def test_cores_are_of_this_machine():
    with pytest.raises(UserError, match=r"--cores: are of this machine"):
        Call(profile="slurm", cores="2").words()


SNAKEMAKE = """
import os, signal, sys, time
def stop(*_):
    time.sleep(1)
    print("stopped in peace", flush=True)
    sys.exit(3)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_snakemakes_to_answer(tmp_path, number):
    """Ctrl-C reaches the whole group; SIGTERM this process alone. Neither cuts it short."""
    (tmp_path / "snakemake.py").write_text(SNAKEMAKE)
    code = "import sys; from workflow.lib.running import Call; sys.exit(Call().run())"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    assert process.communicate(timeout=30)[0] == "stopped in peace\n"
    assert process.returncode == 3


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"--profile: 'pbs' is unknown \(allowed: generic, slurm,"):
        Call(profile="pbs").words()


def test_changes_are_values_of_a_file():
    changes = ("training.learning_rate=2e-4", "training.betas=[0.9, 0.95]", "runs.sit=null")
    assert parse_changes(changes) == {
        "training": {"learning_rate": 2e-4, "betas": [0.9, 0.95]}, "runs": {"sit": None},
    }  # fmt: skip
    assert changed_name("digits", changes[:2]) == "digits-learning_rate-2e-4-betas-0.9-0.95"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("training",), "'training' is no assignment"),
        (("=3",), "'=3' is no assignment"),
        (("a..b=3",), "is no assignment"),
        (("seeds=[0",), "--set: seeds: not YAML"),
        (("seeds=[0]", "seeds=[1]"), "seeds: is set twice"),
        (("training=3", "training.betas=3"), "training.betas: training is set to a value"),
    ],
)
def test_changes_that_are_none_are_refused(changes, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        parse_changes(changes)


def test_a_changed_experiment_extends_the_one_that_it_changes(experiments):
    path, is_new = write_changed("digits", ("runs.sit.training.learning_rate=1e-3",))
    assert is_new
    assert path.name == "digits-learning_rate-1e-3.yaml"
    changed, parent = load_experiment(path), load_experiment("digits")
    assert changed.runs["sit"].training.learning_rate == 1e-3
    assert changed.runs["vae-align"] == parent.runs["vae-align"]
    again = write_changed("digits", ("runs.sit.training.learning_rate=1e-3",))
    assert again == (path, False)
    with pytest.raises(UserError, match=r"exists with other content \(allowed: another --name\)"):
        write_changed("digits", ("seeds=[1]",), path.stem)


@pytest.mark.parametrize(
    "change", ["training.learning_rat=1", "runs.sit.training.learning_rate=-1", "seeds=x"]
)
def test_a_change_that_is_not_allowed_leaves_no_file(experiments, change):
    before = sorted(experiments.iterdir())
    with pytest.raises(UserError):
        write_changed("digits", (change,), "changed")
    assert sorted(experiments.iterdir()) == before


def test_slips_are_one_line():
    line = last_line(run_command("run", "digits", "--name", "x"))
    assert line.startswith("error: --name: names an experiment with changes")
    line = last_line(run_command("run", "--set", "seeds=[1]"))
    assert line == "error: --set: changes one experiment, 0 are named"


@pytest.mark.slow
def test_a_dry_run_of_a_changed_experiment_trains_what_is_changed_only(tmp_path):
    project = tmp_path / "project"
    copy_project(project, *WORKFLOW)
    words = ("run", "digits", "--set", "runs.sit.training.learning_rate=1e-3", "--until", "train")
    ended = subprocess.run(
        [sys.executable, "-m", "selftrans", "--project", project, *words, "--dry-run"],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    first, second, *_ = ended.stdout.splitlines()
    assert first.startswith("experiments/digits-learning_rate-1e-3.yaml: the experiment with")
    assert second == (
        "snakemake train --cores all --dry-run --config 'experiments=[digits-learning_rate-1e-3]'"
    )
    assert "results/digits-learning_rate-1e-3/runs/sit/seed0" in ended.stdout
    assert "results/digits/runs/vae-align/seed0" in ended.stdout
    assert "results/digits/runs/sit/seed0" not in ended.stdout
    assert not list(project.glob("experiments/digits-learning_rate*"))  # it only said so
