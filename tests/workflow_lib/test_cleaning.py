"""``selftrans clean``: what may go, and what never does."""

import io
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from selftrans.runtime.errors import UserError
from tests.support.programs import last_line, run_command
from workflow.lib.cleaning import all_experiments, delete, leftovers
from workflow.lib.study import Study


def made(path, size=100):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


@pytest.fixture
def study(tmp_path, monkeypatch, tiny):
    """Two experiments, one of which shares a run of the other, in an empty folder of results."""
    experiments = Path("experiments").resolve()
    parent = tiny(name="parent").rename(tmp_path / "parent.yaml")
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\nruns: {sit: null}\n")
    (tmp_path / "experiments").symlink_to(experiments)
    monkeypatch.chdir(tmp_path)
    return lambda *names: Study.load({"experiments": [str(parent.with_name(n)) for n in names]})


RUN = "results/parent/runs/{}/seed{}"


def paths(found):
    return [str(one.path) for one in found]


def test_runs_and_seeds_that_no_experiment_names_may_go(study):
    for run, seed in (("sit", 0), ("sit", 1), ("gone", 0)):
        made(RUN.format(run, seed) + "/checkpoints/4/ema.safetensors")
    made("results/vanished/runs/sit/seed0/state/state.safetensors", 50)
    named = [RUN.format("gone", 0), RUN.format("sit", 1)]
    assert paths(leftovers(study("parent.yaml"))) == named  # the other's file may lie elsewhere
    found = leftovers(study("parent.yaml"), ["vanished"])
    assert paths(found) == [*named, "results/vanished/runs/sit/seed0"]
    assert delete(found) == 250
    assert Path(RUN.format("sit", 0)).is_dir()
    assert leftovers(study("parent.yaml")) == []


def test_what_another_experiment_shares_stays(study):
    made(RUN.format("vae-align", 0) + "/checkpoints/4/ema.safetensors")
    assert leftovers(study("child.yaml")) == []


@pytest.mark.parametrize(
    ("child", "file"),
    [
        (
            {"evaluation": {"samplers": {"more": {"sampler": "euler", "num_steps": 2,
                                                  "num_samples": 12}}}},
            "samples/4/more-n12/samples.npz",
        ),
        ({"evaluation": {"metrics": ["fid", "is", "kid"]}}, "samples/4/{ode}/classifier.json"),
        ({"analysis": {"num_images": 30}}, "features/features.npz"),
    ],
)  # fmt: skip
def test_what_an_extension_adds_to_a_shared_run_stays(study, tmp_path, child, file):
    """It lies in the extension's own folder, which trains nothing."""
    (tmp_path / "child.yaml").write_text(yaml.safe_dump({"extends": "parent.yaml", **child}))
    number = study("parent.yaml").known["parent"].evaluation.samplers["ode"].num_samples
    own = made("results/child/runs/sit/seed0/" + file.format(ode=f"ode-n{number}"))
    assert leftovers(study("child.yaml")) == []
    assert own.is_file()


def test_a_link_to_results_elsewhere_stays(study, tmp_path):
    made(tmp_path / "scratch/checkpoints/4/ema.safetensors")
    Path("results/parent/runs/gone").mkdir(parents=True)
    Path(RUN.format("gone", 0)).symlink_to(tmp_path / "scratch")
    assert leftovers(study("parent.yaml")) == []


def test_every_experiment_is_known_once():
    names = all_experiments("digits", "experiments/digits.yaml")
    assert names.count("digits") + names.count("experiments/digits.yaml") == 1
    assert "imagenet256-b2" in names


def test_sets_of_samples_that_no_experiment_names_may_go(study):
    samples = RUN.format("sit", 0) + "/samples/4"
    for name in ("ode-n12", "ode-n9999", "former-n12"):
        made(f"{samples}/{name}/samples.npz")
    named = study("parent.yaml").known["parent"].evaluation.samplers["ode"].num_samples
    Path(f"{samples}/ode-n12").rename(f"{samples}/ode-n{named}")
    assert paths(leftovers(study("parent.yaml"))) == [
        f"{samples}/former-n12", f"{samples}/ode-n9999",
    ]  # fmt: skip


def test_states_go_on_request_and_only_of_finished_runs(study):
    for run in ("sit", "vae-align"):
        made(RUN.format(run, 0) + "/state/00000008/state.safetensors")
        made(RUN.format(run, 0) + "/checkpoints/4/checkpoint.json")
    made(RUN.format("sit", 0) + "/checkpoints/8/checkpoint.json")
    assert leftovers(study("parent.yaml")) == []
    found = leftovers(study("parent.yaml"), states=True)
    assert paths(found) == [RUN.format("sit", 0) + "/state"]


def test_what_is_locked_stays(study):
    made(RUN.format("gone", 0) + "/state/owner.json")
    made(RUN.format("lost", 0) + "/samples/4/ode-n12/samples.npz.owner.json")
    made(RUN.format("late", 0) + "/history.csv")
    found = leftovers(study("parent.yaml"))
    assert [(one.path.parent.name, one.locked) for one in found] == [
        ("gone", True), ("late", False), ("lost", True),
    ]  # fmt: skip
    made(RUN.format("late", 0) + "/owner.json")  # since it was listed
    with pytest.raises(UserError, match="is being written by now"):
        delete(found)
    Path(RUN.format("late", 0) + "/owner.json").unlink()
    assert delete(found) == 100
    assert Path(RUN.format("gone", 0)).is_dir()
    shutil.rmtree("results")


@pytest.mark.parametrize(("answer", "kept"), [("n", True), ("", True), ("y", False)])
def test_the_command_deletes_on_a_yes_alone(project, monkeypatch, answer, kept):
    named = made("results/tiny/runs/sit/seed0/history.csv")
    other = made("results/tiny/runs/gone/seed0/history.csv", 3_000_000)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{answer}\n"))
    ended = run_command("clean")
    assert ended.returncode == 0
    assert "3.0 MB  results/tiny/runs/gone/seed0  no experiment names" in ended.stdout
    assert "Delete 1 folders, 3.0 MB? [y/N]: " in ended.stdout
    assert ("3.0 MB deleted" in ended.stdout) is not kept
    assert other.exists() is kept
    assert named.exists()


def test_an_experiment_that_has_a_file_is_not_gone(project):
    named = made("results/tiny/runs/sit/seed0/history.csv")
    line = last_line(run_command("clean", "--gone", "tiny", "--yes"))
    assert line == "error: --gone: 'tiny' is an experiment (allowed: one without a file)"
    assert named.exists()
