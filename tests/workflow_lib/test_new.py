"""``selftrans new``: what it sees in images, and the files that it writes."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from selftrans.config import load_dataset, load_experiment
from selftrans.runtime.errors import UserError
from tests.support import REPOSITORY
from workflow.lib.new import experiment_text, image_size, look, write_new

CLASSES = ("bird", "cat", "dog")


@pytest.fixture
def images(tmp_path):
    """Twelve pictures of three classes, 40 to 150 pixels."""
    rng = np.random.default_rng(0)
    for number in range(12):
        width, height = 40 + 10 * number, 70
        path = tmp_path / "pets" / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "pets"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project's folder."""
    folder = tmp_path / "project"
    (folder / "experiments/data").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def zipped(images, tmp_path):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(images.rglob("*.png")):
            archive.write(path, path.relative_to(images))
    return tmp_path / "pets.zip"


def saved_by_datasets(images, tmp_path):
    import datasets

    files = sorted(images.rglob("*.png"))
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(CLASSES))}
    )
    rows = {
        "picture": [{"path": None, "bytes": path.read_bytes()} for path in files],
        "kind": [CLASSES.index(path.parent.name) for path in files],
    }
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"test": table, "train": table}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "zip", "huggingface"])
def test_every_kind_of_source_is_seen_alike_and_gives_valid_files(images, tmp_path, project, kind):
    made = {"folder": lambda *_: images, "zip": zipped, "huggingface": saved_by_datasets}
    path = made[kind](images, tmp_path)
    found = look(path)
    assert (found.source.kind, found.count, found.class_names) == (kind, 12, CLASSES)
    assert (found.side, found.smallest) == (70, 40)
    if kind == "huggingface":
        assert (found.source.split, found.source.image_column, found.source.label_column) == (
            "train", "picture", "kind",
        )  # fmt: skip
    for gpus in (0, 3):
        _, data_file, experiment_file = write_new(path, f"pets{gpus}", gpus=gpus)
        data, experiment = load_dataset(f"pets{gpus}"), load_experiment(f"pets{gpus}")
        assert data.images == 12
        assert data.image_size == 64
        assert experiment.resources.train.gpu == gpus
        assert experiment.training.batch_size == 12
        assert list(experiment.runs) == ["sit", "vae-align", "self-transcendence"]
        assert "12 images of 3 classes (bird, cat, dog)" in data_file.read_text()
        assert f"`selftrans plan pets{gpus} --measure`" in experiment_file.read_text()


def test_sizes_follow_from_the_images_and_the_machine(images):
    found = look(images)
    sides = [(20, 32), (63, 32), (64, 64), (500, 64)]
    for side, expected in sides:
        assert image_size(found.__class__(**{**vars(found), "side": side}), 0, None) == expected
    for side, expected in [(20, 64), (200, 128), (256, 256), (3000, 512)]:
        assert image_size(found.__class__(**{**vars(found), "side": side}), 8, None) == expected
    assert image_size(found, 8, 48) == 48


@pytest.mark.parametrize(("count", "gpus", "batch_size"), [(5000, 6, 252), (100, 8, 96), (3, 8, 3)])
def test_the_cards_share_a_batch_evenly(images, count, gpus, batch_size):
    found = replace(look(images), count=count)
    values = yaml.safe_load(experiment_text(found, "pets", gpus))
    assert values["training"]["batch_size"] == batch_size
    assert batch_size % values["resources"]["train"]["gpu"] == 0


@pytest.mark.parametrize("content", ["{}", "[]", '{"splits": []}', '{"features": 3}', "x"])
def test_a_damaged_directory_of_datasets_is_one_line(tmp_path, content):
    for name in ("dataset_info.json", "dataset_dict.json"):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=str(tmp_path)):
            look(tmp_path)
        (tmp_path / name).unlink()


def test_what_is_there_is_never_overwritten_and_nothing_half_written_stays(images, project):
    (project / "experiments/pets.yaml").write_text("precious")
    with pytest.raises(UserError, match=r"experiments/pets\.yaml: is there"):
        write_new(images, "pets", gpus=0)
    assert (project / "experiments/pets.yaml").read_text() == "precious"
    with pytest.raises(UserError):
        write_new(images, "pets2", gpus=0, size=30)  # which latents of 4 pixels do not tile
    assert [path.name for path in project.rglob("*.yaml")] == ["pets.yaml"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", r"nowhere: no such folder \(allowed: a folder of class folders"),
        ("uoft-cs/cifar10", r"uoft-cs/cifar10: no such folder; a data set of the Hugging Face hub"),
        (REPOSITORY / "docs", "a class folder without an image"),
    ],
)
def test_what_is_no_set_of_images_is_refused(path, message, project):
    with pytest.raises(UserError, match=message):
        look(Path(path))


def test_images_with_captions_are_told_where_to_go(images, project):
    (images / "bird/0.txt").write_text("a bird")
    assert look(images).count == 12  # captions within class folders are passed over
    with pytest.raises(UserError, match=r"bird: has captions beside .* 0\.txt; experiments with"):
        look(images / "bird")
