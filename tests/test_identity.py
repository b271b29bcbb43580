"""What identifies a run: all that changes its numbers, and nothing else."""

import json
from pathlib import Path
from typing import get_args

import pytest
from pydantic import Field

from selftrans.config import (
    TrainingConfig,
    dataset_identity,
    defaults,
    fingerprint,
    identity,
    load_experiment,
    run_definition,
    run_differences,
)
from selftrans.config.identity import EXECUTION_FIELDS, differences, same_images

FULL_DUMP = Path(__file__).parent / "golden/full_dump"
RUNS = sorted(path.stem for path in (FULL_DUMP / "definitions").glob("*.json"))


def stored(run):
    return json.loads((FULL_DUMP / f"definitions/{run}.json").read_text())


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(FULL_DUMP / "experiment.yaml")


def with_another_encoder(experiment):
    encoders = {**experiment.data.encoders, "another": experiment.data.encoders["stand-in"]}
    data = experiment.data.model_copy(update={"encoders": encoders})
    return experiment.model_copy(update={"data": data})


def changed(experiment, run, **update):
    """The experiment with other settings of a run."""
    settings = experiment.runs[run].model_copy(update=update)
    return experiment.model_copy(update={"runs": {**experiment.runs, run: settings}})


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("file", ["experiment.yaml", "resolved.yaml"])
def test_definitions_that_were_full_dumps_stay_accepted(run, file):
    experiment = load_experiment(FULL_DUMP / file)
    assert list(run_differences(experiment, run, 0, stored(run))) == []


def test_the_resolved_experiment_of_then_is_the_experiment_of_now(experiment):
    assert load_experiment(FULL_DUMP / "resolved.yaml") == experiment


@pytest.mark.parametrize("run", RUNS)
def test_a_definition_accepts_itself_and_only_its_seed(experiment, run):
    definition = json.loads(json.dumps(run_definition(experiment, run, 3)))
    assert list(run_differences(experiment, run, 3, definition)) == []
    assert next(run_differences(experiment, run, 4, definition)) == "seed (trained: 3, now: 4)"


def other_value(model, key):
    """Another value than a key has, which its type allows."""
    value, annotation = getattr(model, key), type(model).model_fields[key].annotation
    choices = [choice for choice in get_args(annotation) if isinstance(choice, str)]
    match value:
        case str():
            return next((choice for choice in choices if choice != value), "another")
        case int() | float():
            return value + 1
        case tuple():
            return tuple(item / 2 for item in value)
        case None:
            return 7
    *_, last = type(value).model_fields  # a part: one of its keys
    return value.model_copy(update={last: other_value(value, last)})


def alignment_keys():
    """Run, number and key of every setting of every method."""
    experiment = load_experiment(FULL_DUMP / "experiment.yaml")
    for run in RUNS:
        for number, term in enumerate(experiment.runs[run].alignments.values()):
            for key in type(term).model_fields:
                if key != "method":
                    yield run, number, key


@pytest.mark.parametrize(("run", "number", "key"), list(alignment_keys()))
def test_every_changed_key_of_a_method_is_refused(experiment, run, number, key):
    terms = list(experiment.runs[run].alignments.values())
    terms[number] = terms[number].model_copy(update={key: other_value(terms[number], key)})
    changes = changed(with_another_encoder(experiment), run, alignment=tuple(terms))
    found = list(run_differences(changes, run, 0, stored(run)))
    assert any(line.startswith(f"alignment.{number}.{key}") for line in found), found


@pytest.mark.parametrize("key", sorted(set(TrainingConfig.model_fields) - EXECUTION_FIELDS))
def test_every_changed_key_of_the_recipe_is_refused(experiment, key):
    training = experiment.runs["sit"].training
    other = training.model_copy(update={key: other_value(training, key)})
    found = list(
        run_differences(changed(experiment, "sit", training=other), "sit", 0, stored("sit"))
    )
    assert len(found) == 1
    assert found[0].startswith(f"training.{key} (trained: ")


@pytest.mark.parametrize("key", sorted(EXECUTION_FIELDS))
def test_how_the_work_is_done_is_not_refused(experiment, key):
    training = experiment.runs["sit"].training
    other = training.model_copy(update={key: "anything"})
    assert not list(
        run_differences(changed(experiment, "sit", training=other), "sit", 0, stored("sit"))
    )


@pytest.mark.parametrize("key", ["depth", "hidden_size", "num_heads", "patch_size", "mlp_ratio"])
def test_another_backbone_is_refused(experiment, key):
    model = experiment.runs["sit"].model
    other = model.model_copy(update={key: other_value(model, key)})
    found = list(run_differences(changed(experiment, "sit", model=other), "sit", 0, stored("sit")))
    assert [line.split(" ")[0] for line in found] == [f"model.{key}"]


def test_a_changed_teacher_is_refused_by_its_student(experiment):
    alignment = experiment.runs["vae-align"].alignment.model_copy(update={"depth": 2})
    changes = changed(experiment, "vae-align", alignment=alignment)
    found = list(run_differences(changes, "self-transcendence", 0, stored("self-transcendence")))
    assert found == ["teachers.0.alignment.0.depth (trained: 1, now: 2)"]


def test_another_method_is_refused(experiment):
    changes = changed(experiment, "sra", alignment=experiment.runs["layersync"].alignment)
    assert any("method" in line for line in run_differences(changes, "sra", 0, stored("sra")))
    nothing = changed(experiment, "sra", alignment=experiment.runs["sit"].alignment)
    assert next(run_differences(nothing, "sra", 0, stored("sra"))).startswith("alignment (trained")


def test_another_data_set_is_refused_wherever_it_lies(experiment):
    data = experiment.data.model_copy(update={"image_size": 16})
    found = list(
        run_differences(experiment.model_copy(update={"data": data}), "sit", 0, stored("sit"))
    )
    assert found == ["data.image_size (trained: 32, now: 16)"]


class Later(TrainingConfig):
    """The recipe with a key that came later."""

    warmup_steps: int = 0
    betas2: tuple[float, ...] = Field(default_factory=tuple)


def later(experiment, **values):
    training = experiment.runs["sit"].training
    return Later.model_validate({**training.model_dump(), **values})


def test_a_new_key_refuses_nothing_and_changes_no_identity(experiment):
    before = stored("sit")["training"]
    assert not list(differences(later(experiment), before, 1, "training", exclude=EXECUTION_FIELDS))
    plain = identity(experiment.runs["sit"].training, 1)
    assert identity(later(experiment), 1) == plain
    found = differences(
        later(experiment, warmup_steps=5), before, 1, "training", exclude=EXECUTION_FIELDS
    )
    assert list(found) == ["training.warmup_steps (trained: 0, now: 5)"]


def test_a_key_of_a_newer_version_is_a_difference_unless_it_is_retired(experiment, monkeypatch):
    training = experiment.runs["sit"].training
    before = {**stored("sit")["training"], "warmup_steps": 5}
    options = {"exclude": EXECUTION_FIELDS}
    found = list(differences(training, before, 1, "training", **options))
    assert found == ["training.warmup_steps (trained: 5, now: not a key)"]
    monkeypatch.setitem(defaults.RETIRED, "TrainingConfig.warmup_steps", 5)
    assert not list(differences(training, before, 1, "training", **options))


def test_a_changed_default_leaves_what_was_trained_under_the_former_one(experiment, monkeypatch):
    """Version 2 made AdamW's eps 1e-6: who was silent under version 1 has 1e-8."""
    training = experiment.runs["sit"].training
    silent = identity(training, 1)
    assert "eps" not in silent
    monkeypatch.setitem(defaults.FORMER, "TrainingConfig.eps", {1: 1e-8})
    monkeypatch.setattr(TrainingConfig.model_fields["eps"], "default", 1e-6)
    assert not list(differences(training, silent, 1, "training"))
    assert identity(training, 1) == silent
    newest = training.model_copy(update={"eps": 1e-6})
    assert "eps" not in identity(newest, 2)
    assert list(differences(newest, silent, 1, "training")) == [
        "training.eps (trained: 1e-08, now: 1e-06)"
    ]


def test_a_file_is_read_with_the_defaults_of_its_results(monkeypatch, tmp_path):
    monkeypatch.setitem(defaults.FORMER, "TrainingConfig.eps", {1: 1e-4})
    monkeypatch.setitem(defaults.FORMER, "LatentsConfig.dtype", {1: "float32"})
    monkeypatch.setattr(defaults, "VERSION", 2)
    values = {"checkpoints": [4], "log_every": 1}
    context = [{"defaults": version} for version in (1, 2)]
    eps = [TrainingConfig.model_validate(values, context=one).eps for one in context]
    assert eps == [1e-4, 1e-8]
    data = {"name": "x", "source": {"kind": "digits"}, "image_size": 32,
            "autoencoder": {"kind": "trained"}}  # fmt: skip
    from selftrans.config import DatasetConfig

    stored = [DatasetConfig.model_validate(data, context=one).latents.dtype for one in context]
    assert stored == ["float32", "float16"]


def test_an_identity_is_what_differs_from_the_defaults(experiment):
    assert identity(experiment.runs["layersync"].alignment, 1) == {
        "method": "layersync", "student_depth": 1, "teacher_depth": 3,
    }  # fmt: skip
    data = dataset_identity(experiment.data, "source", "image_size", "latents")
    assert data == {
        "defaults": 1,
        "source": {"kind": "digits"},
        "image_size": 32,
        "latents": {"shard_size": 1000},
    }


@pytest.mark.parametrize("kind", ["latents", "features"])
def test_stores_of_then_hold_the_images_of_now(experiment, kind):
    origin = json.loads((FULL_DUMP / kind / "manifest.json").read_text())["origin"]["data"]
    now = {**dataset_identity(experiment.data, "source", "image_size"), "images": origin["images"]}
    assert same_images(origin, now)
    assert not same_images(origin, {**now, "images": "others"})
    assert not same_images(origin, {**now, "image_size": 64})


def test_images_that_are_turned_are_other_images():
    full = {"source": {"kind": "folder", "on_error": "stop", "exif_rotation": False}, "images": "x"}
    short = {"defaults": 1, "source": {"kind": "folder"}, "images": "x"}
    turned = {"defaults": 1, "source": {"kind": "folder", "exif_rotation": True}, "images": "x"}
    assert same_images(full, short)
    assert not same_images(full, turned)


def test_a_fingerprint_is_of_the_definition_as_it_is_stored():
    definition = stored("self-transcendence")
    again = json.loads(json.dumps(definition))
    assert fingerprint(definition) == fingerprint(dict(reversed(again.items())))
    assert fingerprint(definition) != fingerprint({**definition, "seed": 1})
