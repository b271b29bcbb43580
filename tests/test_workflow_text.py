"""The workflow on drawn scenes with captions, run by Snakemake with tiny numbers."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from selftrans import api
from selftrans.data.caption_store import CaptionStore
from selftrans.data.examples import Examples
from tests.support.workplace import Workplace

pytestmark = pytest.mark.workflow

SMALLER = {
    "extends": "scenes-tiny",
    "description": "A part of scenes-tiny.",
    "model": {"mlp_ratio": 2.0},  # else the runs would be those of scenes-tiny
    "training": {"checkpoints": [4]},
    "runs": {
        "repa": None,
        "self-transcendence": {"alignment": {"teacher": {"step": 4}}},
    },
    "figures": {"sample_checkpoints": [4]},
    "analysis": None,
}
"""``scenes-tiny`` with half of its jobs, and with runs of its own."""
RUNS = ["mmdit", "vae-align", "self-transcendence"]
SAMPLES = "text/runs/{run}/seed0/samples/4/ode-cfg-n16"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = Workplace(tmp_path_factory.mktemp("text"))
    (place.directory / "experiments/text.yaml").write_text(yaml.safe_dump(SMALLER))
    place.configure("text")
    place.run()
    return place


def test_samples_are_of_the_captions_in_order(finished):
    store = CaptionStore(finished.path("data/scenes-tiny/captions/manifest.json"))
    for run in RUNS:
        folder = finished.path(SAMPLES.format(run=run))
        description = json.loads((folder / "samples.json").read_text())
        assert (description["labels"], description["prompts"]) == ("prompts", store.manifest.digest)
        with np.load(folder / "samples.npz") as archive:
            assert archive["arr_1"].tolist() == list(range(16))


def test_captions_are_measured_beside_features(finished):
    table = pd.read_csv(finished.path("text/metrics.csv"))
    read = table[table["extractor"] == "reader"]
    assert read["run"].tolist() == RUNS
    assert read["caption-accuracy"].between(0, 100).all()
    assert read["fid"].isna().all()
    assert table[table["extractor"] == "classifier"]["fid"].notna().all()
    by_attribute = pd.read_csv(finished.path("text/caption-accuracy.csv"))
    whole = by_attribute[
        (by_attribute["aspect"] == "whole caption") & (by_attribute["captions"] == "all")
    ]
    np.testing.assert_allclose(whole["share"], read["caption-accuracy"])
    assert set(by_attribute["captions"]) == {"all", "seen", "held_out"}
    markdown = finished.path("text/caption-accuracy.md").read_text()
    assert "captions with a held-out combination" in markdown


def test_the_images_of_the_captions_stand_beside_the_samples(finished):
    examples = Examples.load(finished.path("scenes-tiny/examples.npz"))  # which owns them
    store = CaptionStore(finished.path("data/scenes-tiny/captions/manifest.json"))
    assert list(examples.class_names) == [texts[0] for texts in store.texts[:100]]
    assert examples.real.shape == examples.reconstructed.shape == (4, 32, 32, 3)
    assert store.texts[0][0] in finished.path("text/index.html").read_text()
    assert finished.path("text/figures/samples.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_from_python_draws_prompts(finished, monkeypatch):
    monkeypatch.chdir(finished.directory)
    run = api.load_run("text", "mmdit", step=4)
    text = CaptionStore(finished.path("data/scenes-tiny/captions/manifest.json")).texts[3][0]
    with np.load(finished.path(SAMPLES.format(run="mmdit")) / "samples.npz") as archive:
        np.testing.assert_array_equal(run.sample(prompts=text, first=3), archive["arr_0"][3:4])
    assert run.features(block=2, t=0.5).shape[-1] == 32


def test_nothing_is_left_to_do(finished):
    assert finished.planned() == {}


def test_another_text_encoder_is_another_run(finished, tmp_path):
    place = finished.copied(tmp_path / "copy")
    path = place.directory / "experiments/data/scenes.yaml"
    path.write_text(path.read_text().replace("length: 32", "length: 31"))
    ended = place.snakemake("-n")
    assert ended.returncode != 0
    assert "data.text_encoder.length (trained: 32, now: 31)" in ended.stdout + ended.stderr
