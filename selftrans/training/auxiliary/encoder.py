"""The file of an encoder: a stand-in is trained, a published one is fetched."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from selftrans.config import DatasetConfig, TrainedEncoderConfig
from selftrans.data.sources import open_source
from selftrans.models.encoder import (
    EncoderMetadata,
    build_network,
    load_published,
    save_encoder,
    stand_in_architecture,
)
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG
from selftrans.runtime.random import Stream, torch_seed
from selftrans.training.auxiliary.fit import fit_classifier

LITTLE = 0.5
"""Accuracy below which what follows a stand-in says little of the method."""
HALF = (0.5, 0.5, 0.5)  # mean and standard deviation that put pixels into [-1, 1]


class _Classified(nn.Module):
    """An encoder whose tokens' mean is classified: what the stand-in is trained as."""

    def __init__(self, network: Any, num_classes: int) -> None:
        super().__init__()
        self.network, self.head = network, nn.Linear(network.embed_dim, num_classes)

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        return self.head(self.network.forward_features(pixels_BCHW).mean(dim=1))


def train_stand_in(
    data: DatasetConfig,
    name: str,
    settings: TrainedEncoderConfig,
    output: Path,
    device: torch.device,
) -> str:
    """Train the small transformer on the labels of ``data`` and write it; returns its digest.

    The held-out images are not shown to it.

    Raises:
        UserError: its patches do not tile the images.
    """
    if data.image_size % settings.patch_size:
        raise UserError(
            f"data {data.name!r}: encoders.{name}.patch_size: {settings.patch_size} does not divide"
            f" {data.image_size} pixels"
        )
    torch.manual_seed(torch_seed(settings.seed, Stream.ENCODER))
    architecture = stand_in_architecture(settings, data.image_size)
    network = build_network(architecture)
    model = _Classified(network, len(open_source(data).class_names)).to(device)
    accuracy = fit_classifier(model, model, data, settings, Stream.ENCODER, name)
    LOG.info("accuracy on held-out images: %.4f", accuracy)
    if accuracy < LITTLE:
        LOG.warning(
            "data %r: encoders.%s: knows the classes of %.0f %% of the images that it was not"
            " shown; what follows it says little: more steps",
            data.name,
            name,
            100 * accuracy,
        )
    metadata = EncoderMetadata(
        name=name,
        stand_in=True,
        input_size=data.image_size,
        mean=HALF,
        std=HALF,
        architecture=architecture,
        held_out_accuracy=accuracy,
    )
    return save_encoder(output, network, metadata)


def make_encoder(data: DatasetConfig, name: str, output: Path, device: torch.device) -> str:
    """Train or fetch the encoder ``name`` of ``data`` and write it as one file; returns its digest.

    Raises:
        UserError: the data file has no such encoder, or its weights cannot be fetched.
    """
    if name not in data.encoders:
        raise UserError(
            f"data {data.name!r}: {name!r} is not an encoder"
            f" (allowed: {', '.join(data.encoders) or 'none'})"
        )
    settings = data.encoders[name]
    if isinstance(settings, TrainedEncoderConfig):
        return train_stand_in(data, name, settings, output, device)
    network, architecture = load_published(settings)
    metadata = EncoderMetadata(
        name=name,
        stand_in=False,
        input_size=settings.input_size,
        mean=tuple(network.pretrained_cfg["mean"]),
        std=tuple(network.pretrained_cfg["std"]),
        architecture=architecture,
    )
    return save_encoder(output, network, metadata)
