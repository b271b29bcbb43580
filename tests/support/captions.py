"""Few scenes with captions: their data file, the store of their captions, random rows of others."""

from pathlib import Path

import numpy as np
import torch
import yaml

from selftrans.config import DatasetConfig
from selftrans.data.manifests import FeatureManifest
from selftrans.data.sources import open_source
from selftrans.data.writer import StoreWriter
from selftrans.extraction.captions import CaptionExtraction
from selftrans.extraction.shards import store_origin
from selftrans.runtime.workers import Shard

CPU = torch.device("cpu")
COUNT, LENGTH, SIZE = 60, 24, 16
"""Scenes, kept words of a caption, elements of a word."""


def few_scenes(place: Path) -> Path:
    """A data file of few scenes, whose captions are longer than what is kept of some of them."""
    path = place / "few.yaml"
    values = {
        "source": {"kind": "scenes", "count": COUNT}, "image_size": 32,
        "autoencoder": {"kind": "trained"}, "latents": {"shard_size": 50},
        "text_encoder": {"kind": "words", "length": LENGTH, "size": SIZE},
        "encoders": {"stand-in": {"kind": "trained", "patch_size": 8}},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


def stored_captions(place: Path, data: DatasetConfig) -> Path:
    """The manifest of their captions' store."""
    extraction = CaptionExtraction(data, place / "captions", CPU)
    extraction.run(Shard.all())
    extraction.finish()
    return place / "captions/manifest.json"


def random_latents(place: Path, data: DatasetConfig) -> Path:
    """The manifest of random latents of these scenes."""
    source, directory = open_source(data), place / "latents"
    origin = store_origin(directory, data, source, {"autoencoder_digest": "a"}, "latents")
    writer, rng = StoreWriter(directory, origin, COUNT, 50), np.random.default_rng(0)
    for number, start, stop in writer.ranges():
        moments = rng.standard_normal((stop - start, 2, 4, 8, 8))
        moments[:, 1] = np.abs(moments[:, 1]) * 0.1
        writer.write(number, moments.astype(np.float16))
    writer.finish(
        source.labels, class_names=source.class_names, latent_shape=(4, 8, 8), image_size=32,
        dtype="float16", scale=0.5, shift=0.1, scale_origin="measured",
    )  # fmt: skip
    return directory / "manifest.json"


def random_features(place: Path, data: DatasetConfig) -> Path:
    """The manifest of random tokens that an encoder might have made of these scenes."""
    source, directory = open_source(data), place / "features"
    origin = store_origin(directory, data, source, {"encoder_digest": "a"})
    writer = StoreWriter(directory, origin, COUNT, COUNT, content="features")
    tokens = np.random.default_rng(1).standard_normal((COUNT, 16, 24))
    writer.write(0, tokens.astype(np.float16))
    writer.write_manifest(
        FeatureManifest, encoder="stand-in", encoder_digest="a", stand_in=True, grid_size=4,
        hidden_size=24,
    )  # fmt: skip
    return directory / "manifest.json"
