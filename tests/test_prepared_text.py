"""U-ViT's preparation of captioned images: moments of either kind, text features, captions."""

import numpy as np
import pytest
import torch
from PIL import Image

from selftrans.config import ConfigError, DatasetConfig, validated
from selftrans.data.caption_store import CaptionStore
from selftrans.data.sources import open_source
from selftrans.data.sources.uvit import PreparedText
from selftrans.data.store import LatentStore
from selftrans.extraction.captions import CaptionExtraction
from selftrans.extraction.latents import extract
from selftrans.runtime.errors import UserError
from selftrans.runtime.workers import Shard

SIZE, COUNTS = 32, (2, 1, 3)
CAPTIONS = [("a cat", "the cat"), ("a dog",), ("one", "two", "three")]


def data_of(path, **source):
    values = {
        "name": "mini",
        "source": {"kind": "uvit", "path": str(path), **source},
        "image_size": SIZE,
        "autoencoder": {"kind": "pretrained", "path": "x", "downsampling": 4},
        "latents": {"dtype": "float32"},
    }
    return validated(DatasetConfig, values, "data")


@pytest.fixture
def prepared(tmp_path):
    """Three images as Self-Transcendence's preparation writes them; moments are random."""
    rng, folder = np.random.default_rng(0), tmp_path / "features/train"
    folder.mkdir(parents=True)
    np.save(folder.parent / "empty_context.npy", rng.normal(size=(7, 5)).astype(np.float32))
    for index, count in enumerate(COUNTS):
        np.save(folder / f"{index}.npy", rng.normal(size=(8, 8, 8)).astype(np.float32))
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text("\n".join(CAPTIONS[index]))
        for number in range(count):
            np.save(folder / f"{index}_{number}.npy", rng.normal(size=(7, 5)).astype(np.float32))
    return folder


def test_both_kinds_of_moments(prepared):
    stored = np.stack([np.load(prepared / f"{index}.npy") for index in range(3)])
    means, spread = stored[:, :4], stored[:, 4:]
    variances = open_source(data_of(prepared)).moments(range(3))
    np.testing.assert_array_equal(variances[:, 0], means)
    np.testing.assert_allclose(variances[:, 1] ** 2, np.exp(spread), rtol=1e-5)
    deviations = open_source(data_of(prepared, moments="deviation")).moments(range(3))
    np.testing.assert_array_equal(deviations, np.stack([means, spread], axis=1))
    np.save(prepared / "1.npy", stored[1:2])  # as a batch of one, which REPA's training takes
    np.testing.assert_array_equal(open_source(data_of(prepared)).moments(range(3)), variances)
    np.save(prepared / "2.npy", np.full_like(stored[2], 99))  # clamped as U-ViT does
    assert np.isfinite(open_source(data_of(prepared)).moments(range(2, 3))).all()


def test_text_features_and_captions_follow_their_image(prepared):
    source = open_source(data_of(prepared))
    assert source.captions == CAPTIONS
    assert (source.names, source.counts) == (["0", "1", "2"], [2, 1, 3])
    assert (source.class_names, source.labels.tolist()) == (("all",), [0, 0, 0])
    for index, count in enumerate(COUNTS):
        features = source.text_features(index)
        expected = [np.load(prepared / f"{index}_{number}.npy") for number in range(count)]
        np.testing.assert_array_equal(features, expected)
    empty = np.load(prepared.parent / "empty_context.npy")
    np.testing.assert_array_equal(source.empty_text_features(), empty)
    with Image.open(prepared / "1.png") as image:
        np.testing.assert_array_equal(source.read(range(1, 2))[0], np.asarray(image))


def test_ten_images_are_in_the_order_of_their_numbers(prepared):
    for index in range(3, 12):
        for name in ("{}.npy", "{}_0.npy", "{}.png"):
            (prepared / name.format(index)).write_bytes((prepared / name.format(0)).read_bytes())
        (prepared / f"{index}.txt").write_text(f"caption {index}")
    source = open_source(data_of(prepared))
    assert source.names == [str(index) for index in range(12)]
    assert source.captions[10:] == [("caption 10",), ("caption 11",)]


def test_without_images_and_texts_it_is_u_vits(prepared, autoencoder, tmp_path):
    for file in [*prepared.glob("*.png"), *prepared.glob("*.txt")]:
        file.unlink()
    data = data_of(prepared)
    source = open_source(data)
    assert source.captions is None
    with pytest.raises(UserError, match="the source has no images, only their moments in"):
        source.read(range(1))
    extract(data, autoencoder, tmp_path / "latents")
    stored = LatentStore(tmp_path / "latents/manifest.json").moments(np.arange(3))
    np.testing.assert_array_equal(stored, source.moments(range(3)))


def test_a_line_break_within_a_caption_leaves_the_features(prepared, caplog):
    (prepared / "1.txt").write_text("a dog\nthat barks")
    source = open_source(data_of(prepared))
    assert source.captions is None
    assert len(source.text_features(1)) == 1
    assert "1.txt has 2 lines for 1 captions" in caplog.text


def test_prepared_features_become_a_store_and_each_is_read_once(prepared, tmp_path, monkeypatch):
    values = {"text_encoder": {"kind": "prepared", "length": 7, "size": 5}, "captions": 6}
    data = validated(DatasetConfig, {**data_of(prepared).model_dump(), **values}, "data")
    read = []
    features = PreparedText.text_features
    monkeypatch.setattr(
        PreparedText, "text_features", lambda self, i: read.append(i) or features(self, i)
    )
    extraction = CaptionExtraction(data, tmp_path, torch.device("cpu"))
    extraction.run(Shard.all())
    extraction.finish()
    store = CaptionStore(tmp_path / "manifest.json")
    names = ["../empty_context", *(f"{i}_{k}" for i, n in enumerate(COUNTS) for k in range(n))]
    expected = np.stack([np.load(prepared / f"{name}.npy") for name in names])
    np.testing.assert_array_equal(store.rows[np.arange(7)], expected.astype(np.float16))
    assert [store.span(image) for image in range(3)] == [(1, 3), (3, 4), (4, 7)]
    assert [tuple(texts) for texts in store.texts] == CAPTIONS
    assert read == [0, 1, 2]


BAD = {
    "1.npy": "1.npy is missing, 2.npy is there",
    "1_0.npy": "1.npy has no text features beside it, 1_0.npy",
    "2_1.npy": "2_2.npy is there, one before it is missing",
    "0.png": "0.png is missing, 1.png is there",
}


@pytest.mark.parametrize("name", BAD)
def test_a_missing_file_is_one_line(prepared, name):
    (prepared / name).unlink()
    with pytest.raises(UserError) as caught:
        open_source(data_of(prepared))
    assert str(caught.value) == f"{prepared}: {BAD[name]}"


def test_other_shapes_and_folders_are_one_line(prepared, tmp_path):
    source = open_source(data_of(prepared))
    np.save(prepared / "0_0.npy", np.zeros((6, 5), np.float32))
    with pytest.raises(UserError, match=r"0_0\.npy: text features of shape \(6, 5\), those of the"):
        source.text_features(0)
    for wrong in (np.zeros((7, 5), np.int64), np.zeros(7), np.full((7, 5), np.nan)):
        np.save(prepared / "0_0.npy", wrong)
        with pytest.raises(UserError, match=r"0_0\.npy: .*allowed are finite text features"):
            source.text_features(0)
    (prepared.parent / "empty_context.npy").unlink()
    with pytest.raises(UserError, match=r"empty_context\.npy: no such file"):
        source.empty_text_features()
    for name, message in ((".", "holds no prepared data"), ("x", "no such folder")):
        with pytest.raises(UserError, match=message):
            open_source(data_of(tmp_path / name))
    np.save(prepared / "0.npy", np.zeros((7, 8, 8), np.float32))
    with pytest.raises(UserError, match=r"0\.npy: moments of shape \(7, 8, 8\)"):
        open_source(data_of(prepared)).moments(range(1))
    with pytest.raises(ConfigError, match=r"source\.kind 'uvit' are decoded already"):
        data_of(prepared, on_error="skip")
