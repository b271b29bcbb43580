"""The autoencoder's side of uint8, and extraction into the store."""

import logging

import numpy as np
import pytest
import torch

from selftrans.config import TrainedAutoencoderConfig, load_dataset
from selftrans.data.sources import open_source
from selftrans.data.store import LatentStore
from selftrans.extraction.latents import extract
from selftrans.models.autoencoder import (
    decode,
    encode_moments,
    in_precision,
    load_autoencoder,
    to_signed,
    to_uint8,
)
from selftrans.runtime.tensors import DTYPES
from selftrans.training.auxiliary.autoencoder import train_autoencoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    digits = load_dataset("experiments/data/digits.yaml")
    small = TrainedAutoencoderConfig(
        kind="trained", block_channels=(8, 8, 8), norm_groups=4, steps=2, batch_size=8
    )
    return digits.model_copy(update={"autoencoder": small})


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("autoencoder")
    train_autoencoder(data, CPU).save_pretrained(directory)
    return str(directory)


def test_uint8_survives_the_way_to_floats_and_back():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    assert torch.equal(to_uint8(to_signed(images)), images)
    assert (to_signed(images).min().item(), to_signed(images).max().item()) == (-1, 1)
    assert torch.equal(
        to_uint8(torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2)).flatten(), torch.tensor([0, 255])
    )


def test_uint8_is_the_nearest_whole_number():
    levels = torch.arange(1, 255).reshape(1, 1, 1, -1)
    for offset in (-0.45, -0.1, 0.1, 0.45):
        images = (levels + offset) / 127.5 - 1
        assert torch.equal(to_uint8(images).flatten(), levels.flatten().to(torch.uint8)), offset


def test_digits_are_digits():
    source = open_source(load_dataset("experiments/data/digits.yaml"))
    assert len(source.labels) == 1797
    assert source.class_names == tuple("0123456789")
    images = source.read(range(5, 9))
    assert images.shape == (4, 32, 32, 3)
    assert images.dtype == np.uint8
    assert images.max() > 240


def test_a_trained_autoencoder_has_no_scale_of_its_own(saved):
    autoencoder = load_autoencoder(saved, CPU)
    assert autoencoder.config["scaling_factor"] is None
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    moments = encode_moments(autoencoder, images)
    assert moments.shape == (2, 2, 4, 8, 8)
    assert (moments[:, 1] > 0).all()
    assert decode(autoencoder, moments[:, 0]).shape == images.shape


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_precision_is_a_copy_and_says_nothing(saved, precision, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    autoencoder = load_autoencoder(saved, CPU)
    copied = in_precision(autoencoder, precision)
    assert {one.dtype for one in copied.parameters()} == {DTYPES[precision]}
    assert {one.dtype for one in autoencoder.parameters()} == {torch.float32}
    assert not caplog.records


@pytest.mark.slow
def test_extraction_measures_the_scale_and_resumes_at_the_shard(data, saved, tmp_path, monkeypatch):
    latents = data.latents.model_copy(update={"shard_size": 700, "dtype": "float32"})
    sharded = data.model_copy(update={"latents": latents})
    manifest = extract(sharded, saved, tmp_path, CPU)
    assert (manifest.count, manifest.latent_shape, len(manifest.shards)) == (1797, (4, 8, 8), 3)
    store = LatentStore(tmp_path / "manifest.json")
    noise = np.random.default_rng(0).standard_normal((1797, 4, 8, 8)).astype(np.float32)
    assert store.latents(np.arange(1797), noise).std() == pytest.approx(1, abs=0.01)
    assert manifest.scale_origin == "measured"
    np.testing.assert_array_equal(store.labels, open_source(data).labels)

    shards = {shard.file: (tmp_path / shard.file).stat().st_mtime_ns for shard in manifest.shards}
    (tmp_path / "moments-00001.npy").unlink()
    (tmp_path / "manifest.json").unlink()
    again = extract(sharded, saved, tmp_path, CPU)
    assert again == manifest
    rewritten = {
        name for name, written in shards.items() if (tmp_path / name).stat().st_mtime_ns != written
    }
    assert rewritten == {"moments-00001.npy"}


@pytest.mark.slow
def test_an_autoencoder_with_a_scale_keeps_it(data, saved, tmp_path):
    autoencoder = load_autoencoder(saved, CPU)
    autoencoder.register_to_config(scaling_factor=0.18215)
    autoencoder.save_pretrained(tmp_path / "ae")
    manifest = extract(data, str(tmp_path / "ae"), tmp_path / "latents", CPU)
    assert (manifest.scale, manifest.scale_origin) == (0.18215, "autoencoder")
