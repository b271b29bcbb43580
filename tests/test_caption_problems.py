"""What an experiment with captions may not say, and what is done with captions that do not fit."""

import pytest
import torch
import yaml

from selftrans.config import ConfigError, DatasetConfig, load_experiment, validated
from selftrans.data.sources import read_all
from selftrans.runtime.errors import UserError
from selftrans.training.auxiliary import fit
from selftrans.training.auxiliary.classifier import train_classifier
from tests.support.programs import run_command

READ = "'caption-accuracy' needs"


@pytest.fixture
def changed(tmp_path):
    """Load an experiment that changes another one; data files beside it may be given."""

    def load(extends, data_files=None, **changes):
        for name, values in (data_files or {}).items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump({"extends": extends, **changes}))
        return load_experiment(path)

    return load


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("digits", "prompts: data 'digits' has no captions that are encoded"),
        ("coco256-validation", "prompts: data 'coco256-validation' has text_encoder.kind 'pretra"),
        ({"text_encoder": {"size": 32}}, "has text_encoder.size 32, data 'scenes-tiny' has 64"),
        ({"text_encoder": {"length": 40}}, "has text_encoder.length 40, data 'scenes-tiny' has"),
        ({"image_size": 64}, "prompts: data 'other' has image_size 64, data 'scenes-tiny' has 32"),
    ],
)
def test_prompts_that_do_not_fit_are_refused_before_any_job(changed, prompts, message):
    data_files = {}
    if not isinstance(prompts, str):
        data_files, prompts = {"other": {"extends": "scenes-tiny", **prompts}}, "other.yaml"
    with pytest.raises(ConfigError, match=message):
        changed("scenes-tiny", data_files, prompts=prompts)


def test_prompts_of_models_of_classes_are_refused(changed):
    with pytest.raises(ConfigError, match="'scenes-tiny' is given, but the runs are conditioned"):
        changed("digits", prompts="scenes-tiny")


@pytest.mark.parametrize(
    ("extends", "changes", "message"),
    [
        ("coco256-mmdit", {"evaluation": {"metrics": ["fid", "caption-accuracy"]}}, f"{READ} `rea"),
        ("scenes-tiny", {"data": "unread.yaml"}, f"{READ} `reader` in the file of data 'unread'"),
        ("scenes-tiny", {"prompts": "digits"}, f"{READ} captions of drawn scenes, found those"),
        ("scenes-tiny", {"prompts": "scenes"}, "'held-out-accuracy' needs captions of held-out"),
        (
            "coco256-mmdit",
            {"evaluation": {"extractor": "classifier", "metrics": ["fid"]}},
            "'classifier' is trained on classes, data 'coco256' has none",
        ),
        (
            "scenes-tiny",
            {"evaluation": {"samplers": {"ode-cfg": {"labels": "random"}}}},
            "'random' chooses classes",
        ),
    ],
)
def test_measures_that_captions_do_not_allow_are_refused_before_any_job(
    changed, extends, changes, message
):
    unread = {"unread": {"extends": "scenes-tiny", "reader": None}}
    with pytest.raises(ConfigError, match=message):
        changed(extends, unread, **changes)


def test_nothing_is_trained_on_classes_that_are_none(monkeypatch):
    values = {
        "name": "few", "source": {"kind": "scenes", "count": 12}, "image_size": 32,
        "autoencoder": {"kind": "trained"}, "classifier": {"steps": 1, "batch_size": 4},
    }  # fmt: skip
    data = validated(DatasetConfig, values, "few")
    images, labels = read_all(data)
    monkeypatch.setattr(fit, "read_all", lambda _: (images, 0 * labels))
    with pytest.raises(UserError, match="classifier: is trained on classes, the images have capt"):
        train_classifier(data, torch.device("cpu"))


@pytest.mark.parametrize("width", [8, 24, 0])
def test_a_reader_whose_channels_make_no_groups_is_refused(width):
    values = {
        "name": "few", "source": {"kind": "scenes", "count": 12}, "image_size": 32,
        "autoencoder": {"kind": "trained"}, "reader": {"width": width},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"reader\.width: input should be"):
        validated(DatasetConfig, values, "few")


def test_a_text_encoder_beside_classes_is_refused():
    ended = run_command(
        "sample", "a.safetensors", "--classes", "1", "--text-encoder", "x", "--output", "a.png"
    )
    assert ended.returncode == 1
    assert "--text-encoder: is given beside --classes (allowed: beside --prompt)" in ended.stderr
