"""What is certain to be missing is said before the first job, all at once, with its key."""

import pytest

from selftrans.config import load_experiment
from selftrans.evaluation.weights import INCEPTION
from selftrans.runtime.errors import UserError
from workflow.lib.missing import missing
from workflow.lib.prefetch import required
from workflow.lib.study import Study

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


COCO = {"experiment": "coco256-mmdit"}


def test_what_coco_needs_is_missed_with_its_captions_and_models():
    study = Study.load({"experiments": ("coco256-mmdit",)})
    planned = [
        ("extract_captions", {"dataset": "coco256"}), ("class_examples", COCO),
        ("caption_metrics", {**COCO, "extractor": "clip"}),
        ("reference_statistics", {"dataset": "coco256", "extractor": "inception"}),
    ]  # fmt: skip
    key, nowhere = "config.yaml: data: coco256", "no such file or folder"
    files = "data/coco/annotations/captions_{}2014.json"
    clip = "openai/clip-vit-large-patch14"
    cache = f"{clip}: not in the hub's cache"
    fetch = f"`selftrans prefetch` or `hf download {clip}` fetches it"
    against = "what samples are measured against"
    file = "experiments/data/coco256-validation.yaml"
    assert missing(study, planned) == [
        f"{key}: source.path: data/coco/train2014: {nowhere} (the images)",
        f"{key}: source.annotations: {files.format('train')}: {nowhere} (the captions)",
        f"{key}: text_encoder.path: {cache} (the text encoder; {fetch})",
        f"{key}-validation: source.path: data/coco/val2014: {nowhere} (the images)",
        f"{key}-validation: source.annotations: {files.format('val')}: {nowhere} (the captions)",
        f"coco256-mmdit: evaluation.clip: {cache} (CLIP; {fetch})",
        f"{key}: reference: {file}: source.path: data/coco/val2014: {nowhere} ({against})",
    ]


def test_text_encoders_that_are_there_are_not_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("workflow.lib.missing.try_to_load_from_cache", lambda *_: "config.json")
    study = Study.load({"experiments": ("coco256-mmdit",)})
    assert missing(study, [("caption_metrics", {**COCO, "extractor": "clip"})]) == []
    monkeypatch.setattr("workflow.lib.missing.find_spec", lambda _: None)
    (line,) = missing(study, [("caption_metrics", {**COCO, "extractor": "clip"})])
    assert "needs transformers (pip install '.[text]')" in line


def test_drawn_scenes_need_nothing():
    study = Study.load({"experiments": ("scenes-tiny",)})
    data = {"dataset": "scenes-tiny"}
    planned = [("extract_captions", data), ("class_examples", {"experiment": "scenes-tiny"})]
    planned += [("reference_statistics", {"dataset": "scenes", "extractor": "classifier"})]
    whole = Study.load({"experiments": ("scenes-text",)})
    assert [missing(study, planned[:2]), missing(whole, planned[2:])] == [[], []]


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


def test_prefetch_asks_for_text_encoder_clip_and_images_of_prompts():
    names = [name for name, _ in required(load_experiment("coco256-mmdit"), {})]
    clip = "openai/clip-vit-large-patch14"
    wanted = {"images of coco256-validation", f"text encoder {clip}", f"CLIP {clip}"}
    assert wanted <= set(names)
    drawn = [name for name, _ in required(load_experiment("scenes-text"), {})]
    assert drawn == []


def test_prefetch_fetches_no_weights_that_are_pickled(monkeypatch):
    """What is not on the hub, or cannot be reached, is said in one line."""
    asked = {}

    def download(path, allow_patterns):
        asked[path] = allow_patterns
        raise OSError("no network")

    monkeypatch.setattr("selftrans.models.pretrained.snapshot_download", download)
    needs = dict(required(load_experiment("coco256-mmdit"), {}))
    with pytest.raises(UserError, match=r"text encoder 'openai/clip-vit.*: no network"):
        needs["text encoder openai/clip-vit-large-patch14"]()
    (patterns,) = asked.values()
    assert "*.safetensors" in patterns
    assert not any(pattern.endswith((".bin", ".pt", ".h5")) for pattern in patterns)
