"""Training of the network that reads drawn scenes.

It sees real scenes alone, of all combinations. It is not trained on what an autoencoder or a
generator makes of them: it would learn to guess what a blurred picture was meant to show, and what
it is asked is what the picture shows. Pixel noise keeps it from relying on single pixels.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftrans.config import Combinations, DatasetConfig, ReaderConfig, ScenesSource
from selftrans.data.sources.scenes import Scenes
from selftrans.models.autoencoder import to_signed
from selftrans.models.reader import (
    ReaderMetadata,
    ReaderNetwork,
    by_place,
    encode,
    read,
)
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG
from selftrans.runtime.random import Stream, generator, torch_seed
from selftrans.training.auxiliary.fit import fit, shuffled

FIRST_SHOWN, FIRST_FRESH = 2**41, 2**42
"""Indices of the scenes that it is trained and judged on: beyond all that a data file may name."""
FRESH_SCENES = 4000
NOISE = 0.05
"""Standard deviation of pixel noise in [-1, 1]."""
SHAPE_WEIGHT = 3.0
"""Of the loss of shapes, which are learnt last, and of which there is one for each place."""


class ReaderAccuracy(NamedTuple):
    """Shares of fresh scenes that are read without a mistake."""

    all: float
    held_out: float
    """Of scenes with a combination that is held out of training."""


def train_reader(data: DatasetConfig, device: torch.device) -> tuple[ReaderNetwork, ReaderAccuracy]:
    """A reader of the drawn world of ``data``, and its accuracy.

    Raises:
        UserError: the data file has other images, or no reader.
    """
    source, settings = _settings(data)
    torch.manual_seed(torch_seed(settings.seed, Stream.READER))
    network = ReaderNetwork(settings).to(device)
    shown = _scenes(source, data.image_size, FIRST_SHOWN, settings.scenes, "all")
    images, numbers = torch.from_numpy(shown.read(range(settings.scenes))), encode(shown.scenes)
    order = shuffled(
        generator(settings.seed, Stream.READER, 1), settings.scenes, settings.batch_size
    )

    def loss_of_step(_: int) -> Tensor:
        chosen = next(order)
        pixels = to_signed(images[chosen].to(device))
        noisy = pixels + NOISE * torch.randn_like(pixels)
        return _loss(network, noisy, torch.from_numpy(numbers[chosen]).to(device))

    fit(network, loss_of_step, settings.steps, settings.learning_rate, "reader")
    shares = [
        accuracy(network, _scenes(source, data.image_size, FIRST_FRESH, FRESH_SCENES, kind), device)
        for kind in ("all", "held_out")
    ]
    return network, ReaderAccuracy(*shares)


def _settings(data: DatasetConfig) -> tuple[ScenesSource, ReaderConfig]:
    if not isinstance(data.source, ScenesSource):
        raise UserError(
            f"data {data.name!r}: source.kind is {data.source.kind!r}, a reader is trained on"
            " 'scenes' alone"
        )
    if data.reader is None:
        raise UserError(
            f"data {data.name!r}: reader: is not given (allowed: its settings, or {{}})"
        )
    return data.source, data.reader


def _scenes(
    source: ScenesSource, image_size: int, first: int, count: int, combinations: Combinations
) -> Scenes:
    changes = {"first": first, "count": count, "combinations": combinations}
    return Scenes(source.model_copy(update=changes), image_size)


def _loss(network: ReaderNetwork, pixels_BCHW: Tensor, numbers: Tensor) -> Tensor:
    """Cross entropies of the background, of every place's shape or none, and of what is there."""
    background, (shape, *others) = network(pixels_BCHW)
    targets = by_place(numbers)
    present = targets[..., 0] > 0
    loss = nn.functional.cross_entropy(background, numbers[:, 0])
    loss = loss + SHAPE_WEIGHT * nn.functional.cross_entropy(
        shape.flatten(0, 1), targets[..., 0].flatten()
    )
    for index, logits in enumerate(others, start=1):
        loss = loss + nn.functional.cross_entropy(logits[present], targets[..., index][present])
    return loss


def accuracy(network: ReaderNetwork, scenes: Scenes, device: torch.device) -> float:
    """Share of scenes that are read without a mistake."""
    images: NDArray[np.uint8] = scenes.read(range(len(scenes.names)))
    return float((read(network, images, device) == encode(scenes.scenes)).all(axis=1).mean())


def make_reader(data: DatasetConfig, output: Path, device: torch.device) -> None:
    """Train the reader of a data set and write its file, with its accuracy."""
    _, settings = _settings(data)
    network, shares = train_reader(data, device)
    LOG.info("whole scenes read, of fresh ones: %.4f", shares.all)
    LOG.info("whole scenes read, of those with a held-out combination: %.4f", shares.held_out)
    metadata = ReaderMetadata(
        settings=settings,
        image_size=data.image_size,
        fresh_scenes=FRESH_SCENES,
        accuracy=shares.all,
        held_out_accuracy=shares.held_out,
    )
    metadata.save(output, network.state_dict())
