"""``selftrans score``: pictures compared with the captions that they were made of."""

import json
import shutil

import numpy as np
import pytest
import torch

from selftrans.api.measures import feature_statistics
from selftrans.api.measures import metrics as api_metrics
from selftrans.config import DatasetConfig, ReaderConfig, validated
from selftrans.data.caption_store import CaptionStore
from selftrans.data.images import write_image_archive
from selftrans.data.sources import open_source
from selftrans.evaluation.scores import CaptionedImages, scored_by_reader
from selftrans.extraction.captions import CaptionExtraction
from selftrans.models.reader import ReaderMetadata, ReaderNetwork
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json, write_json
from selftrans.runtime.seal import unsealed
from selftrans.runtime.workers import Shard
from tests.support.programs import run_command

CPU = torch.device("cpu")
COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Some scenes' captions, as samples of them the scenes themselves, and an untrained reader."""
    folder = tmp_path_factory.mktemp("scores")
    values = {
        "name": "few", "source": {"kind": "scenes", "count": COUNT, "combinations": "all"},
        "image_size": 32, "autoencoder": {"kind": "trained"},
        "text_encoder": {"kind": "words", "length": 32, "size": 8},
    }  # fmt: skip
    data = validated(DatasetConfig, values, "few")
    extraction = CaptionExtraction(data, folder / "captions", CPU)
    extraction.run(Shard.all())
    extraction.finish()
    torch.manual_seed(0)
    metadata = ReaderMetadata(
        settings=ReaderConfig(width=16), image_size=32, fresh_scenes=4,
        accuracy=0.5, held_out_accuracy=0.25,
    )  # fmt: skip
    metadata.save(folder / "reader.safetensors", ReaderNetwork(metadata.settings).state_dict())
    write_samples(folder, open_source(data).read(range(COUNT)), np.arange(COUNT))
    return folder


def write_samples(folder, images, labels, name="samples", **changes):
    """A set of samples, and what it says of itself."""
    digest = CaptionStore(folder / "captions/manifest.json").manifest.digest
    checkpoint = {"run": "mmdit", "seed": 0, "step": 4, "digest": "0" * 64}
    description = {"checkpoint": checkpoint, "prompts": digest, **changes}
    write_image_archive(folder / f"{name}.npz", [images], labels.astype(np.int64))
    (folder / f"{name}.json").write_text(json.dumps(description))
    return folder / f"{name}.npz"


def score(folder, *words, samples="samples", scorer="reader", weights="reader.safetensors"):
    return run_command(
        "score", folder / f"{samples}.npz", "--prompts", folder / "captions/manifest.json",
        "--scorer", scorer, "--weights", folder / weights, "--device", "cpu", *words,
    )  # fmt: skip


def test_the_readers_metrics_are_printed_and_written(folder, tmp_path):
    ended = score(folder, "--output", tmp_path / "found.json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["metrics"]) == {"caption-accuracy", "held-out-accuracy"}
    assert (found["num_samples"], found["accuracy"]["all"]["number"]["total"]) == (COUNT, COUNT)
    held_out = found["accuracy"]["held_out"]["number"]["total"]
    assert 0 < held_out < COUNT
    assert held_out + found["accuracy"]["seen"]["number"]["total"] == COUNT
    captioned = CaptionedImages(folder / "samples.npz", folder / "captions/manifest.json")
    whole = scored_by_reader(captioned, folder / "reader.safetensors", 5, CPU)
    assert whole["accuracy"] == found["accuracy"]  # whatever the batch
    assert all(f"{value:.4f}" in ended.stdout for value in found["metrics"].values())


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["--metrics", "fid"], {}, "--metrics: 'fid' is none of reader's (allowed: caption-accu"),
        (["--metrics", ","], {}, "--metrics: '' is none of reader's"),
        ([], {"weights": "captions/manifest.json"}, "manifest.json: "),
        ([], {"weights": "nowhere"}, "nowhere: no such file"),
        ([], {"samples": "nowhere"}, "nowhere.npz: no such file"),
        (["--output", "found.txt"], {}, "--output: found.txt has another suffix (allowed: .json)"),
    ],
)
def test_what_cannot_be_scored_is_one_line(folder, words, options, message):
    ended = score(folder, *words, **options)
    assert ended.returncode in (1, 2)
    (line,) = ended.stderr.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("metrics", ["clip-score", "fid,caption-accuracy"])
def test_metrics_of_captions_are_none_of_features(folder, metrics):
    samples = folder / "samples.npz"
    ended = run_command("evaluate", samples, "--reference", samples, "--metrics", metrics)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"{metrics.split(',')[-1]!r} is computed by `selftrans score`" in ended.stderr
    statistics = feature_statistics(np.random.default_rng(0).normal(size=(20, 4)))
    with pytest.raises(UserError, match=r"metric '(caption-accuracy|clip-score)' is unknown"):
        api_metrics(metrics.split(","), statistics, statistics)


def test_samples_of_other_captions_are_refused(folder):
    images = np.zeros((3, 32, 32, 3), np.uint8)
    prompts = folder / "captions/manifest.json"
    for labels in ([0, 1, COUNT], [0, -1, 2]):
        with pytest.raises(UserError, match="arr_1: names no caption for each of its 3 images"):
            CaptionedImages(write_samples(folder, images, np.array(labels), "odd"), prompts)
    other = write_samples(folder, images, np.arange(3), "other", prompts="f" * 64)
    with pytest.raises(UserError, match="was made of other captions than"):
        CaptionedImages(other, prompts)
    of_classes = write_samples(folder, images, np.arange(3), "classes", prompts=None)
    with pytest.raises(UserError, match="was made of other captions than"):
        CaptionedImages(of_classes, prompts)


def test_prompts_of_an_unknown_world_are_refused(folder, tmp_path):
    prompts = shutil.copytree(folder / "captions", tmp_path / "captions") / "manifest.json"
    content = unsealed(read_json(prompts), prompts)
    for source in (3, {"kind": "scenes", "combinations": "many"}):
        write_json(prompts, {**content, "origin": {"data": {"source": source}}})
        captioned = CaptionedImages(folder / "samples.npz", prompts)
        with pytest.raises(UserError, match=r"source\.combinations: .*allowed: training, held_out"):
            scored_by_reader(captioned, folder / "reader.safetensors", 5, CPU)


def test_features_without_texts_are_not_scored(folder, monkeypatch):
    """As U-ViT's preparation has them: a score of empty captions would mean nothing."""
    monkeypatch.setattr(CaptionStore, "texts", [["", ""]] * COUNT)
    with pytest.raises(UserError, match=r"manifest\.json: holds features .* texts are not known"):
        CaptionedImages(folder / "samples.npz", folder / "captions/manifest.json")
