"""Segments: what each waits for, what it reads, in which order they run."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.support.experiments import OTHER_METHODS
from tests.support.studies import IMPORTED, SharingStudy
from workflow.lib.study import Study
from workflow.lib.training import Training, checkpoint_below, saving_seconds

SIT = {"experiment": "tiny", "run": "sit", "seed": "0"}
STAGE_2 = {**SIT, "run": "self-transcendence", "step": "4"}


def marked(path: str) -> str:
    return f"ancient {path}"


def finish(step: int, after: int = 0, run: str = "sit") -> None:
    """The record of a finished segment."""
    path = Path(f"results/tiny/runs/{run}/seed0/checkpoints/{step}/checkpoint.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"after": after}))


@pytest.fixture
def training(make_study, tmp_path, monkeypatch):
    study = make_study({"training.checkpoints": [4, 6, 8, 12]})
    monkeypatch.chdir(tmp_path)
    return Training(study, marked)


@pytest.mark.parametrize(
    ("finished", "step", "before"),
    [
        ({}, 4, None),
        ({}, 12, 8),
        ({4: 0, 6: 4}, 8, 6),
        ({4: 0, 8: 4}, 6, 4),  # 6 was inserted
        ({4: 0, 8: 4}, 8, 4),  # and changes nothing for 8
        ({4: 0, 8: 4}, 12, 6),  # but two segments never train at once
        ({4: 0, 6: 4, 8: 6}, 12, 8),
    ],
)
def test_a_segment_waits_for_the_checkpoint_below(training, finished, step, before):
    for done, after in finished.items():
        finish(done, after)
    path = training.segment_before({**SIT, "step": str(step)})
    if before is None:
        assert path == []
        assert training.step_before(SIT, SimpleNamespace(before=path)) == 0
        return
    expected = f"results/tiny/runs/sit/seed0/checkpoints/{before}/ema.safetensors"
    assert path == (marked(expected) if step in finished else expected)
    assert training.step_before(SIT, SimpleNamespace(before=expected)) == str(before)


def test_inputs_of_a_finished_segment_alone_are_ancient(training):
    latents = "results/data/digits/latents/manifest.json"
    job = {**SIT, "step": 6}
    assert training.frozen_latents(job) == [latents]
    finish(6)
    assert training.frozen_latents(job) == [marked(latents)]
    assert training.frozen_latents({**SIT, "step": 8}) == [latents]


def test_a_segment_reads_its_teacher(training):
    teacher = "results/tiny/runs/vae-align/seed0/teachers/4-raw-depth3.safetensors"
    assert training.teacher_files(STAGE_2) == training.frozen_teachers(STAGE_2) == [teacher]
    assert training.teacher_files(SIT) == []


@pytest.mark.parametrize(
    ("run", "stores", "encoders"),
    [
        ("repa", ["results/data/digits/features/stand-in/manifest.json"], []),
        ("repa-on-images", [], ["results/data/digits/encoders/stand-in.safetensors"]),
        ("sra", [], []),
    ],
)
def test_a_segment_reads_the_encoder_that_it_follows(make_study, run, stores, encoders):
    training = Training(make_study({"runs": {"sit": {}, run: OTHER_METHODS[run]}}), marked)
    job = {**SIT, "run": run, "step": 4}
    assert training.feature_stores(job) == training.frozen_features(job) == stores
    assert training.encoder_files(job) == training.frozen_encoders(job) == encoders


def test_the_command_line_names_what_is_followed(training):
    inputs = SimpleNamespace(captions=[], teachers=["a"], features=["b"], encoders=["c"])
    job = {**SIT, "run": "self-transcendence"}
    expected = "--teacher self-transcendence=a --features b --encoder c"
    assert training.input_options(job, inputs) == expected


def test_the_longest_chain_of_trainings_comes_first(training):
    """Stage 1 to its teacher at 4, then all of stage 2: 16 steps; SiT has 12."""
    first = {"experiment": "tiny", "seed": 0, "step": 0}
    assert training.steps_waiting("tiny", "sit", 0) == 12
    assert training.steps_waiting("tiny", "vae-align", 0) == 4 + 12
    assert training.steps_waiting("tiny", "vae-align", 6) == 6  # its teacher is frozen
    assert training.urgency({**first, "run": "sit"}) == 13
    assert training.urgency({**first, "run": "sit", "step": 12}) == 1  # above evaluation's 0


def test_targets_are_every_checkpoint_once(make_study):
    study = make_study({"seeds": [0, 1]})
    training = Training(study, marked)
    assert len(training.targets()) == len(set(training.targets())) == 3 * 2 * 2
    assert "results/tiny/runs/sit/seed1/checkpoints/8/ema.safetensors" in training.targets()


def test_a_shared_run_lies_with_its_owner(make_study):
    study = make_study({}, {"name": "child"}, kind=SharingStudy)
    study.owners = {"sit": "tiny", "vae-align": "tiny"}
    training = Training(study, marked)
    assert len(training.targets()) == 2 * 3 + 2  # the child trains stage 2 alone
    student = {**STAGE_2, "experiment": "child"}
    assert training.teacher_files(student)[0].startswith("results/tiny/runs/vae-align/")
    assert training.steps_waiting("tiny", "vae-align", 0) == 4 + 8


def test_the_checkpoint_below(make_study):
    study = make_study()
    assert [checkpoint_below(study, {**SIT, "step": step}) for step in (4, "8")] == [0, 4]


def test_an_imported_checkpoint_is_described_without_its_path(make_study):
    run = {"imported": {**IMPORTED, "scale": 0.5, "ignore": ["head"]}, "model": {"qk_norm": False}}
    study = make_study({"runs": {"public": run}, "figures.sample_checkpoints": [5]})
    training = Training(study, marked)
    job = {**SIT, "run": "public", "step": 5}
    assert training.imported_file(job) == "public.pt"
    words = shlex.split(training.import_options(job))
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert (options["--step"], options["--scale"], options["--name"]) == ("5", "0.5", "public")
    assert (options["--latent-size"], options["--ignore"]) == ("8", "head")
    assert json.loads(options["--expected"])["qk_norm"] is False
    assert "public.pt" not in words
    assert training.targets() == []


def test_an_imported_mmdit_is_told_its_empty_caption(tmp_path):
    imported = {**IMPORTED, "empty_context": "features/empty_context.npy"}
    values = {
        "extends": "scenes-tiny",
        "name": "public",
        "runs": {"public": {"imported": imported}},
    }
    (tmp_path / "public.yaml").write_text(yaml.safe_dump(values))
    study = Study.load({"experiments": (str(tmp_path / "public.yaml"),)})
    job = {"experiment": "public", "run": "public", "seed": 0, "step": 5}
    words = shlex.split(Training(study, marked).import_options(job))
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["--empty-context"] == "features/empty_context.npy"
    assert json.loads(options["--expected"])["kind"] == "mmdit"


def test_a_training_is_warned_as_long_before_as_its_last_save_took(training):
    state = Path("results/tiny/runs/sit/seed0/state")
    assert saving_seconds(training.study, SIT) == 61  # a small state, before the first save
    state.mkdir(parents=True)
    (state / "saving.json").write_text('{"seconds": 100.2}')
    assert saving_seconds(training.study, SIT) == 60 + 301
