"""Results of the first version, whose keys had other names: read, or refused with what to do."""

import json
import shutil

import pytest
import yaml

from selftrans.config import load_experiment
from selftrans.config.defaults import RENAMED
from selftrans.evaluation.tables import read_history, read_seconds
from selftrans.models.metadata import WeightsMetadata
from selftrans.runtime.errors import ConfigError, UserError
from selftrans.training.definition import check_definition
from tests.support import REPOSITORY

FIRST = REPOSITORY / "tests/golden/first_names"


@pytest.fixture
def run(tmp_path):
    """The folder of a run as that version left it, without its weights."""
    folder = tmp_path / "runs/sit/seed0"
    (folder / "checkpoints/8").mkdir(parents=True)
    shutil.copy(FIRST / "definition.json", folder)
    for name in ("checkpoint.json", "history.csv"):
        shutil.copy(FIRST / name, folder / "checkpoints/8")
    return folder


def renamed(settings):
    """The experiment of then under today's names."""
    if isinstance(settings, dict):
        return {RENAMED.get(key, key): renamed(value) for key, value in settings.items()}
    return settings


def test_every_key_of_an_experiment_of_then_has_its_name_of_now():
    with pytest.raises(ConfigError) as refused:
        load_experiment(FIRST / "experiment.yaml")
    lines = str(refused.value).splitlines()
    unknown = [line.partition("experiment.yaml: ")[2] for line in lines if "unknown" in line]
    assert unknown == [
        "model.width: unknown key (its name is hidden_size now)",
        "model.heads: unknown key (its name is num_heads now)",
        "runs.vae-align.guidance: unknown key (its name is alignment now)",
        "runs.self-transcendence.guidance: unknown key (its name is alignment now)",
    ]


def test_what_was_trained_is_not_continued_but_refused_in_one_line(run, tmp_path):
    settings = renamed(yaml.safe_load((FIRST / "experiment.yaml").read_text()))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    experiment = load_experiment(tmp_path / "tiny.yaml")
    with pytest.raises(UserError) as refused:
        check_definition(run, experiment, "sit", 0)
    message = str(refused.value)
    assert message.startswith(f"{run}/definition.json: was written when keys had other names (gu")
    assert message.endswith(f"Give the run a new name, or discard what was trained: rm -r {run}")
    assert "\n" not in message


def test_its_weights_are_refused_in_one_line(tmp_path):
    """By what the file says of itself, which is read behind its digest."""
    file = tmp_path / "ema.safetensors"
    with pytest.raises(UserError) as refused:
        WeightsMetadata.parse(json.loads((FIRST / "weights.json").read_text()), file)
    assert str(refused.value).startswith(f"{file}: was written when keys had other names (gui")
    assert str(refused.value).endswith(
        "; sample it with the version that wrote it, or train it again"
    )


def test_its_history_and_wall_time_are_read(run):
    history = read_history(run / "checkpoints/8/history.csv")
    assert list(history["step"]) == [2, 4, 6, 8]
    assert history["loss"].notna().all()
    record = json.loads((FIRST / "checkpoint.json").read_text())
    assert read_seconds(run / "checkpoints/8/checkpoint.json") == record["seconds"]
