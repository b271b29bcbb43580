"""Fixtures that many tests need: a latent store, an experiment, an autoencoder, an encoder."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.support import REPOSITORY
from tests.support.experiments import tiny_values
from tests.support.random_models import randomise
from tests.support.stores import SCALE, SHIFT, write_store

pytest_plugins = ["tests.support.tiers"]

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# A shell that starts the tests in the background has them ignore Ctrl-C, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def at_repository(monkeypatch):
    """Names of experiments are looked up in the working directory, as in normal use."""
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def shape():
    from selftrans.models.shape import SiTShape

    return SiTShape(
        latent_shape=(4, 8, 8), num_classes=10, depth=4, hidden_size=32, num_heads=2, patch_size=2
    )


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("latents"))


@pytest.fixture
def tiny(tmp_path):
    """Write a tiny experiment with changes and return its path."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.dump(tiny_values(**changes), Dumper=yaml.CSafeDumper, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory) -> str:
    """Directory of a tiny random autoencoder."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("autoencoder")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        mid_block_add_attention=False, scaling_factor=SCALE, shift_factor=SHIFT,
    ).save_pretrained(directory)  # fmt: skip
    return str(directory)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A random encoder's file."""
    from selftrans.config import TrainedEncoderConfig
    from selftrans.models.encoder import (
        EncoderMetadata,
        build_network,
        save_encoder,
        stand_in_architecture,
    )

    path = tmp_path_factory.mktemp("encoder") / "stand-in.safetensors"
    architecture = stand_in_architecture(
        TrainedEncoderConfig(kind="trained", hidden_size=24, depth=2, num_heads=2), 32
    )
    metadata = EncoderMetadata(
        name="stand-in",
        stand_in=True,
        input_size=32,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        architecture=architecture,
    )
    save_encoder(path, randomise(build_network(architecture)), metadata)
    return path


@pytest.fixture(scope="session")
def features(tmp_path_factory, manifest, encoder) -> Path:
    """That encoder's tokens of the digits that stand for the latent store's images."""
    from selftrans.config import load_dataset
    from selftrans.data.manifests import FeatureManifest
    from selftrans.data.sources import open_source
    from selftrans.data.store import LatentStore
    from selftrans.data.writer import StoreWriter
    from selftrans.models.encoder import load_encoder

    os.chdir(REPOSITORY)
    loaded, count = load_encoder(encoder, torch.device("cpu")), len(LatentStore(manifest))
    images = torch.from_numpy(open_source(load_dataset("digits")).read(range(count)))
    writer = StoreWriter(
        tmp_path_factory.mktemp("features"), {}, count, shard_size=64, content="features"
    )
    for number, start, stop in writer.ranges():
        writer.write(number, loaded(images[start:stop]).half().numpy())
    writer.write_manifest(
        FeatureManifest,
        encoder="stand-in",
        encoder_digest=loaded.digest,
        stand_in=True,
        grid_size=4,
        hidden_size=24,
    )
    return writer.directory / "manifest.json"


@pytest.fixture(scope="session")
def teacher(tmp_path_factory, manifest):
    """A frozen teacher of the tiny stage-1 run."""
    from selftrans.training.freeze import freeze_teacher
    from tests.support.trainings import run

    directory = tmp_path_factory.mktemp("teacher")
    path = directory / "tiny.yaml"
    os.chdir(REPOSITORY)
    path.write_text(yaml.safe_dump(tiny_values(), sort_keys=False))
    run(path, "vae-align", directory / "run", manifest, until=4)
    freeze_teacher(
        directory / "run/checkpoints/4/raw.safetensors", 3, directory / "teacher.safetensors"
    )
    return directory / "teacher.safetensors"
