"""Small things that many tests need: random models, a latent store, an experiment."""

import copy
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# A shell that starts the tests in the background has them ignore Ctrl-C, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def at_repository(monkeypatch):
    """Names of experiments are looked up in the working directory, as in every use of the project."""
    monkeypatch.chdir(REPOSITORY)


def randomise(module: torch.nn.Module, seed: int = 0, std: float = 0.1) -> torch.nn.Module:
    """Random numbers for every weight: a fresh adaLN-Zero model makes most tests vacuous."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std
                )
    return module


@pytest.fixture
def shape():
    from selftrans.models.sit import SiTShape

    return SiTShape(
        latent_shape=(4, 8, 8), num_classes=10, depth=4, hidden_size=32, num_heads=2, patch_size=2
    )


def write_store(directory: Path, count: int = 200, seed: int = 0) -> Path:
    """A latent store of random moments in three shards; returns the manifest's path."""
    from selftrans.data.writer import StoreWriter

    rng = np.random.default_rng(seed)
    writer = StoreWriter(
        directory, {"seed": seed, "count": count}, count, shard_size=count // 3 + 1
    )
    for number, start, stop in writer.ranges():
        moments = rng.standard_normal((stop - start, 2, 4, 8, 8))
        moments[:, 1] = np.abs(moments[:, 1]) * 0.1
        writer.write(number, moments.astype(np.float16))
    writer.finish(
        rng.integers(0, 10, count),
        class_names=tuple("0123456789"),
        latent_shape=(4, 8, 8),
        image_size=32,
        dtype="float16",
        scale=0.5,
        shift=0.1,
        scale_origin="measured",
    )
    return directory / "manifest.json"


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("latents"))


TINY: dict[str, Any] = {
    "name": "tiny",
    "data": "digits",
    "model": {"depth": 4, "hidden_size": 32, "num_heads": 2, "patch_size": 2},
    "training": {
        "checkpoints": [4, 8],
        "batch_size": 8,
        "learning_rate": 1e-3,
        "log_every": 3,
        "ema_decay": 0.9,
    },
    "runs": {
        "sit": {},
        "vae-align": {"alignment": {"method": "vae-alignment", "depth": 1, "projector_width": 16}},
        "self-transcendence": {
            "alignment": {
                "method": "self-transcendence",
                "teacher": {"run": "vae-align", "step": 4},
                "student_depth": 2,
                "teacher_depth": 3,
                "guidance_scale": 2,
                "projector_width": 16,
            }
        },
    },
    "evaluation": {"samplers": {"ode": {"sampler": "euler", "num_steps": 2, "num_samples": 20}}},
    "figures": {"sampler": "ode", "sample_checkpoints": [4, 8], "sample_columns": 5},
}


OTHER_METHODS: dict[str, Any] = {
    "repa": {
        "alignment": {"method": "repa", "encoder": "stand-in", "depth": 2, "projector_width": 16}
    },
    "repa-on-images": {
        "alignment": {
            "method": "repa",
            "encoder": "stand-in",
            "depth": 2,
            "projector_width": 16,
            "features": "images",
        }
    },
    "sra": {"alignment": {"method": "sra", "student_depth": 2, "teacher_depth": 3}},
    "layersync": {"alignment": {"method": "layersync", "student_depth": 1, "teacher_depth": 3}},
    "both": {
        "alignment": [
            {"method": "layersync", "student_depth": 1, "teacher_depth": 3, "stop_after": 5},
            {"method": "vae-alignment", "depth": 1, "projector_width": 16},
        ]
    },
}


def tiny_values(**changes: Any) -> dict[str, Any]:
    """The content of a tiny experiment file; a key like ``training.batch_size`` sets a value below."""
    values = copy.deepcopy(TINY)
    for key, value in changes.items():
        *parents, last = key.split(".")
        part = values
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = value
    return values


@pytest.fixture
def tiny(tmp_path):
    """Write a tiny experiment with changes and return its path."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(tiny_values(**changes), sort_keys=False))
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
        mid_block_add_attention=False,
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
    from selftrans.config import load_data
    from selftrans.data.manifests import FeatureManifest
    from selftrans.data.sources import open_source
    from selftrans.data.store import LatentStore
    from selftrans.data.writer import StoreWriter
    from selftrans.models.encoder import load_encoder

    os.chdir(REPOSITORY)
    loaded, count = load_encoder(encoder, torch.device("cpu")), len(LatentStore(manifest))
    images = torch.from_numpy(open_source(load_data("digits")).read(range(count)))
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
    from tests.runs import run

    directory = tmp_path_factory.mktemp("teacher")
    path = directory / "tiny.yaml"
    os.chdir(REPOSITORY)
    path.write_text(yaml.safe_dump(tiny_values(), sort_keys=False))
    run(path, "vae-align", directory / "run", manifest, until=4)
    freeze_teacher(
        directory / "run/checkpoints/4/raw.safetensors", 3, directory / "teacher.safetensors"
    )
    return directory / "teacher.safetensors"
