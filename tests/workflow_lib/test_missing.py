"""What is certain to be missing is said before the first job, all at once, with its key."""

import pytest

from selftrans.evaluation.weights import INCEPTION
from workflow.lib.missing import missing

DATASET, JOB = {"dataset": "imagenet256"}, {"experiment": "tiny", "run": "sit"}
PLANNED = [
    ("extract_latents", DATASET), ("reference_statistics", {**DATASET, "extractor": "inception"}),
    ("extractor_weights", {"extractor": "inception"}), ("train_segment", JOB),
    ("generate_samples", JOB), ("generate_samples", {**JOB, "step": 8}), ("table", JOB),
]  # fmt: skip


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFTRANS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def study_of(make_study, **settings):
    changes = {"source": {"path": "/data/train"}, "reference": "/data/reference.npz"}
    data = {"imagenet256": {**changes, "autoencoder": {"decoder": "some/decoder"}}}
    return make_study({"data": "imagenet256"}, **{"data": data, **settings})


MMDIT = {"kind": "mmdit", "depth": 4, "hidden_size": 32, "num_heads": 2, "patch_size": 2}


def test_captions_of_coco_are_missed_as_its_images_are(make_study):
    study = make_study({"data": "coco256", "model": MMDIT, "runs": {"mmdit": {}}})
    lines = missing(study, [("extract_latents", {"dataset": "coco256"})])
    key, nowhere = "config.yaml: data: coco256: ", "no such file or folder"
    captions = "data/coco/annotations/captions_train2014.json"
    assert lines[:2] == [
        f"{key}source.path: data/coco/train2014: {nowhere} (the images)",
        f"{key}source.annotations: {captions}: {nowhere} (the captions)",
    ]
    drawn = make_study({"data": "scenes-tiny"})
    assert missing(drawn, [("extract_latents", {"dataset": "scenes-tiny"})]) == []


def test_everything_is_named_once_with_its_key(make_study, caches):
    lines = missing(study_of(make_study), PLANNED)
    key = "config.yaml: data: imagenet256: "
    fetch = f"{INCEPTION.name} from {INCEPTION.url}; `fetch_weights: true` downloads it"
    nowhere = "no such file or folder"
    offline = "not in the hub's cache, and HF_HUB_OFFLINE is set (the autoencoder)"
    assert lines == [
        f"{key}source.path: /data/train: {nowhere} (the images)",
        f"{key}autoencoder.path: stabilityai/sd-vae-ft-mse: {offline}",
        f"{key}reference: /data/reference.npz: {nowhere} (what samples are measured against)",
        f"config.yaml: weights: inception: {caches / INCEPTION.name}: no such file ({fetch})",
        f"{key}autoencoder.decoder: some/decoder: {offline}",
    ]


def test_what_may_be_fetched_is_not_certain_to_be_missing(make_study, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    lines = missing(study_of(make_study, fetch_weights=True), PLANNED)
    assert ["source.path" in line or "reference" in line for line in lines] == [True, True]


def test_what_is_there_is_not_missing(make_study, tmp_path, caches):
    (tmp_path / "images").mkdir()
    (tmp_path / "vae").mkdir()
    for name in ("reference.npz", "inception.pth"):
        (tmp_path / name).write_bytes(b"")
    data = {
        "source": {"path": str(tmp_path / "images")},
        "reference": str(tmp_path / "reference.npz"),
        "autoencoder": {"path": str(tmp_path / "vae")},
    }
    weights = {"inception": str(tmp_path / "inception.pth")}
    study = make_study({"data": "imagenet256"}, data={"imagenet256": data}, weights=weights)
    assert missing(study, PLANNED) == []


def test_jobs_that_need_nothing_ask_for_nothing(make_study):
    assert missing(study_of(make_study), [("table", JOB), ("train_segment", JOB)]) == []
