"""A miniature ImageNet through the preset's own path, from unusual JPEGs to the figure.

The preset is changed by overrides only.
"""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from selftrans.config import DatasetConfig as DataFile
from selftrans.config import validated
from selftrans.extraction.latents import extract
from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT
from selftrans.runtime.files import read_json
from selftrans.runtime.headers import read_metadata
from selftrans.training.auxiliary.autoencoder import train_autoencoder
from tests.support.miniature import CLASSES, make_imagenet
from tests.support.programs import run_command
from tests.support.random_models import randomise
from tests.support.workplace import Workplace

pytestmark = pytest.mark.workflow

SIZE = 32
CPU = torch.device("cpu")
MODEL = {"depth": 4, "hidden_size": 64, "num_heads": 4, "patch_size": 2}
EXPERIMENT = {
    "extends": "imagenet256-b2",
    "model": MODEL,
    "training": {
        "checkpoints": [30, 60], "batch_size": 32, "learning_rate": 1e-3, "ema_decay": 0.9,
        "log_every": 10, "precision": "fp32", "compile": False,
    },
    "runs": {
        "vae-align": {
            "alignment": {"depth": 1, "projector_width": 64}, "training": {"checkpoints": [60]},
        },
        "self-transcendence": {
            "alignment": {
                "teacher": {"step": 60}, "student_depth": 2, "teacher_depth": 3,
                "guidance_scale": 2, "projector_width": 64,
            },
            "training": {"checkpoints": [60]},
        },
        "vae-align-per-sample": None, "self-transcendence-per-sample": None,
    },
    "analysis": None,
    "evaluation": {
        "extractor": "classifier", "metrics": ["fid", "is"],
        "samplers": {"sde": {"num_steps": 12, "num_samples": 100, "precision": "fp32"}},
    },
    "figures": {"sample_checkpoints": [30, 60], "published": "published.yaml"},
}  # fmt: skip
PUBLISHED = {"source": "A paper.", "metric": "fid", "curves": {"sit": [[30, 200.0], [60, 90.0]]}}


def small_autoencoder(images, path):
    """Trained on the miniature itself, with a scale of its own as published ones have."""
    values = {
        "name": "mini", "source": {"kind": "folder", "path": str(images), "on_error": "skip"},
        "image_size": SIZE,
        "autoencoder": {
            "kind": "trained", "block_channels": [8, 16, 16], "norm_groups": 4, "steps": 80,
            "batch_size": 32,
        },
    }  # fmt: skip
    data = validated(DataFile, values, "mini")
    autoencoder = train_autoencoder(data, CPU)
    autoencoder.save_pretrained(path)
    scale = extract(data, str(path), path / "latents").scale
    shutil.rmtree(path / "latents")
    autoencoder.register_to_config(scaling_factor=scale)
    autoencoder.save_pretrained(path)
    return data, scale


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Everything that the preset makes, and beside it a run whose teacher others trained."""
    place = Workplace(tmp_path_factory.mktemp("place"))
    images = make_imagenet(place.directory / "imagenet", corrupt=2)
    data, scale = small_autoencoder(images, place.directory / "autoencoder")
    shape = SiTShape(latent_shape=data.latent_shape, num_classes=CLASSES, **MODEL)
    torch.save(
        {"ema": randomise(SiT(shape)).state_dict(), "opt": {}, "steps": 5},
        place.directory / "public.pt",
    )
    imported = {"file": "public.pt", "convention": "noise-at-1", "step": 5, "scale": scale}
    follower = {
        **EXPERIMENT["runs"]["self-transcendence"]["alignment"],
        "method": "self-transcendence",
        "guidance_scale": 1,
    }
    follower["teacher"] = {"run": "public", "step": 5, "weights": "ema"}
    runs = {
        "public": {"imported": imported},
        "follows-public": {"alignment": follower, "training": {"checkpoints": [60]}},
    }
    experiment = {**EXPERIMENT, "runs": {**EXPERIMENT["runs"], **runs}}
    written = place.directory / "experiments"
    (written / "mini.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))
    (written / "published.yaml").write_text(yaml.safe_dump(PUBLISHED))
    on_this_machine = {
        "source": {"path": str(images), "on_error": "skip"}, "images": 400, "image_size": SIZE,
        "reference": None,
        "autoencoder": {"path": str(place.directory / "autoencoder"), "downsampling": 4},
        "latents": {"shard_size": 128}, "classifier": {"steps": 150},
    }  # fmt: skip
    jobs = {
        kind: {"gpu": 0, "threads": 1, "mem_mb": 2000}
        for kind in ("data", "train", "generate", "evaluate")
    }
    jobs["extract"] = {"gpu": 0, "processes": 2, "threads": 2, "mem_mb": 2000}
    place.configure("mini", data={"imagenet256": on_this_machine}, resources=jobs)
    place.run()
    return place


def test_the_nasty_images_are_there_and_the_corrupt_ones_are_listed(finished):
    manifest = read_json(finished.path("data/imagenet256/latents/manifest.json"))
    assert manifest["skipped"] == ["n00000000/n00000000_0.JPEG", "n00000001/n00000001_1.JPEG"]
    assert manifest["count"] == 398
    assert manifest["class_names"] == [f"n{label:08}" for label in range(CLASSES)]
    reference = finished.path("data/imagenet256/reference/classifier.npz")
    with np.load(reference, allow_pickle=False) as statistics:
        assert statistics["count"] == 398


def test_every_checkpoint_is_measured_and_drawn(finished):
    table = pd.read_csv(finished.path("mini/metrics.csv"))
    found = set(table[["run", "step"]].itertuples(index=False, name=None))
    trained = ("sit", "vae-align", "self-transcendence")
    measured = {(run, 60) for run in trained}
    assert found == measured | {("sit", 30), ("follows-public", 60), ("public", 5)}
    for name in ("convergence", "samples", "losses", "comparison"):
        assert finished.path(f"mini/figures/{name}.pdf").is_file()
        with Image.open(finished.path(f"mini/figures/{name}.png")) as figure:
            assert figure.width > 800
    curve = table[table["run"] == "sit"].sort_values("step")["fid"]
    assert curve.is_monotonic_decreasing, curve


def test_the_presets_other_values_are_kept(finished):
    resolved = yaml.safe_load(finished.path("mini/experiment.yaml").read_text())
    stage_2 = resolved["runs"]["self-transcendence"]["alignment"]
    assert (stage_2["weight"], stage_2["t_range"], stage_2["stop_after"]) == (
        0.5,
        {"low": 0.4, "high": 0.7},
        100_000,
    )
    assert resolved["data"]["latents"]["dtype"] == "float16"
    assert resolved["evaluation"]["samplers"]["sde"]["sampler"] == "euler-maruyama"


def test_an_imported_checkpoint_is_sampled_and_a_teacher(finished):
    runs = finished.path("mini/runs")
    assert not (runs / "public/seed0/state").exists()
    teacher = read_metadata(runs / "public/seed0/teachers/5-ema-depth3.safetensors", "teacher")
    assert (teacher["source"]["run"], teacher["source"]["step"], teacher["shape"]["depth"]) == (
        "public",
        5,
        3,
    )
    described = read_json(runs / "public/seed0/samples/5/sde-n100/samples.json")
    assert described["checkpoint"]["step"] == 5
    history = pd.read_csv(runs / "follows-public/seed0/checkpoints/60/history.csv")
    assert (history["alignment"] > 0).all()


def test_classes_can_be_looked_at(finished, monkeypatch):
    monkeypatch.chdir(finished.directory)
    weights = finished.path("mini/runs/sit/seed0/checkpoints/60/ema.safetensors")
    words = (weights, "--classes", "0,19", "--steps", 4, "--output", "grid.png")
    ended = run_command("sample", *words)
    assert ended.returncode == 0, ended.stderr
    with Image.open("grid.png") as grid:
        assert grid.width == 4 * SIZE


def test_the_report_knows_what_config_yaml_says_of_the_data(finished):
    """Numbers and nothings among the changes to a data file reach the second Snakemake."""
    ended = finished.snakemake("report")
    assert ended.returncode == 0, ended.stderr + finished.path("mini/logs/report.log").read_text()
    report = finished.path("mini/report.html").read_text()
    assert len(report) > 100_000
    assert "convergence.png" in report
    assert not list(finished.path("").glob("*.json"))


def test_nothing_is_left_to_do_and_a_plan_can_be_made(finished, monkeypatch):
    assert finished.planned() == {}
    monkeypatch.chdir(finished.directory)
    planned = run_command("plan").stdout
    assert [line for line in planned.splitlines() if line.startswith("import_checkpoint")]
