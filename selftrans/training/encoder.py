"""An encoder made ready: the stand-in trained, a published one fetched. ``python -m selftrans.training.encoder --help``."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selftrans.config import DatasetConfig, TrainedEncoderConfig, load_dataset
from selftrans.data.sources import open_source
from selftrans.models.encoder import (
    build_network,
    load_published,
    save_encoder,
    stand_in_architecture,
)
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.logs import LOG, set_up_logging
from selftrans.runtime.random import Stream, torch_seed
from selftrans.training.fit import fit_classifier

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
    """Train the small transformer on the labels of ``data``, but for every tenth image, and write it; returns its digest.

    Raises:
        UserError: its patches do not tile the images.
    """
    if data.image_size % settings.patch_size:
        raise UserError(
            f"data {data.name!r}: encoders.{name}.patch_size: {settings.patch_size} does not divide {data.image_size} pixels"
        )
    torch.manual_seed(torch_seed(settings.seed, Stream.ENCODER))
    architecture = stand_in_architecture(settings, data.image_size)
    network = build_network(architecture)
    model = _Classified(network, len(open_source(data).class_names)).to(device)
    accuracy = fit_classifier(model, model, data, settings, Stream.ENCODER, name)
    LOG.info("accuracy on held-out images: %.4f", accuracy)
    metadata = {
        "name": name, "stand_in": True, "input_size": data.image_size, "mean": HALF, "std": HALF,
        "held_out_accuracy": accuracy,
    }  # fmt: skip
    return save_encoder(output, network, architecture, metadata)


def make_encoder(data: DatasetConfig, name: str, output: Path, device: torch.device) -> str:
    """Train or fetch the encoder ``name`` of ``data`` and write it as one file; returns its digest.

    Raises:
        UserError: the data file has no such encoder, or its weights cannot be had.
    """
    if name not in data.encoders:
        raise UserError(
            f"data {data.name!r}: {name!r} is no encoder (allowed: {', '.join(data.encoders) or 'none'})"
        )
    settings = data.encoders[name]
    if isinstance(settings, TrainedEncoderConfig):
        return train_stand_in(data, name, settings, output, device)
    network, architecture = load_published(settings)
    metadata = {"name": name, "stand_in": False, "input_size": settings.input_size}
    metadata |= {key: tuple(network.pretrained_cfg[key]) for key in ("mean", "std")}
    return save_encoder(output, network, architecture, metadata)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.training.encoder",
        description="Train or fetch an encoder of a data set.",
    )
    parser.add_argument("data", help="data file (YAML)")
    parser.add_argument("--name", required=True, help="which of its encoders")
    parser.add_argument("--output", type=Path, required=True, help="the encoder's file")
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    make_encoder(
        load_dataset(arguments.data), arguments.name, arguments.output, claim_device(arguments.gpus)
    )


if __name__ == "__main__":
    run_main(main)
