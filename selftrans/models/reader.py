"""The network that reads drawn scenes: which objects a picture shows, where, and on what ground."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftrans.config import ReaderConfig
from selftrans.data.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
)
from selftrans.models.autoencoder import to_signed
from selftrans.runtime.errors import UserError
from selftrans.runtime.metadata import FileMetadata

SIDE = 32
"""Pixels that pictures are read at; larger ones are averaged."""
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES, "texture": TEXTURES,
}  # fmt: skip
_COUNTS = (len(SHAPES) + 1, *(len(values) for values in list(ATTRIBUTES.values())[1:]))
"""Of logits per place: no object or its shape, then its other attributes."""
NUMBERS = 1 + len(ATTRIBUTES) * len(PLACES)
"""That an encoded scene consists of."""
BATCH = 256
"""Images that are read at a time."""
IntegersT = TypeVar("IntegersT", NDArray[np.int64], Tensor)


class ReaderMetadata(FileMetadata):
    """Of a reader's file."""

    kind: ClassVar[str] = "reader"
    settings: ReaderConfig
    image_size: int
    """Side of the scenes that it was trained on."""
    fresh_scenes: int
    """Number of scenes that it was judged on, of each kind: none of them was shown to it."""
    accuracy: float
    """Share of fresh scenes, of all combinations, that it reads without a mistake."""
    held_out_accuracy: float
    """The same of scenes with a combination that is held out of a generator's training."""


class ReaderNetwork(nn.Module):
    """Convolutions to an 8x8 map; each quarter, and the middle, is read by linear layers.

    The quarters share theirs, so that what is learnt of an object holds wherever it is.
    """

    def __init__(self, settings: ReaderConfig) -> None:
        super().__init__()
        width = settings.width
        self.convolutions = nn.Sequential(
            *_convolution(3, width // 2),
            *_convolution(width // 2, 3 * width // 2, stride=2),
            *_convolution(3 * width // 2, 3 * width // 2),
            *_convolution(3 * width // 2, 3 * width, stride=2),
            *_convolution(3 * width, 2 * width),
        )
        self.quarter = _head(2 * width * 16, sum(_COUNTS))
        self.middle = _head(2 * width * 64, 2 * sum(_COUNTS))
        self.background = nn.Linear(2 * width, len(BACKGROUNDS))

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits of images in [-1, 1].

        Returns:
            Of the background (B, 3); of shape (with "none" first), colour, size and texture, each
            (B, places, values).
        """
        pixels = nn.functional.avg_pool2d(pixels_BCHW, pixels_BCHW.shape[-1] // SIDE)
        maps = self.convolutions(pixels)
        quarters = maps.unfold(2, 4, 4).unfold(3, 4, 4)  # (B, C, 2, 2, 4, 4)
        quarters_BQF = quarters.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        middle = self.middle(maps.flatten(1)).unflatten(1, (2, sum(_COUNTS)))
        places = torch.cat([self.quarter(quarters_BQF), middle], dim=1)
        return self.background(maps.mean(dim=(2, 3))), places.split(_COUNTS, dim=2)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    )


def _head(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 128), nn.SiLU(), nn.Linear(128, outputs))


@dataclass(frozen=True)
class Reader:
    """A trained reader, and what its file says of it."""

    network: ReaderNetwork
    metadata: ReaderMetadata
    device: torch.device

    def read(self, images_BHWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """What images show, as numbers like those of ``encode``.

        Raises:
            UserError: they have another size than the scenes that it was trained on.
        """
        side = self.metadata.image_size
        if images_BHWC.shape[1:] != (side, side, 3):
            height, width = images_BHWC.shape[1:3]
            raise UserError(f"images of {width}x{height} pixels, the reader reads {side}x{side}")
        return read(self.network, images_BHWC, self.device)


def load_reader(path: Path, device: torch.device) -> Reader:
    """Load what ``selftrans.training.auxiliary.reader`` wrote.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    tensors, metadata = ReaderMetadata.load(path)
    network = ReaderNetwork(metadata.settings)
    network.load_state_dict(tensors)
    return Reader(network.requires_grad_(False).eval().to(device), metadata, device)


@torch.inference_mode()
def read(
    network: ReaderNetwork, images_BHWC: NDArray[np.uint8], device: torch.device
) -> NDArray[np.int64]:
    """What images show, as numbers like those of ``encode``, (B, 1 + 4 places)."""
    found = []
    for start in range(0, len(images_BHWC), BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(images_BHWC[start : start + BATCH]))
        background, places = network(to_signed(batch.to(device)))
        values = torch.stack([logits.argmax(dim=2) for logits in places], dim=2)  # (B, places, 4)
        values[..., 1:] *= values[..., :1] > 0
        numbers = torch.cat([background.argmax(dim=1, keepdim=True), values.flatten(1)], dim=1)
        found.append(numbers.cpu().numpy())
    return np.concatenate(found) if found else np.empty((0, NUMBERS), np.int64)


def encode(scenes: Sequence[Scene]) -> NDArray[np.int64]:
    """Scenes as numbers, (N, 1 + 4 places): the background, then four attributes of each place.

    A shape of 0 is no object; the other attributes are 0 there.
    """
    grounds, per_place = tuple(BACKGROUNDS), len(ATTRIBUTES)
    numbers = np.zeros((len(scenes), NUMBERS), np.int64)
    for row, scene in zip(numbers, scenes, strict=True):
        row[0] = grounds.index(scene.background)
        for thing in scene.things:
            values = [v.index(getattr(thing, name)) for name, v in ATTRIBUTES.items()]
            values[0] += 1
            start = 1 + per_place * PLACES.index(thing.place)
            row[start : start + per_place] = values
    return numbers


def by_place(numbers: IntegersT) -> IntegersT:
    """The attributes of each place, (N, places, 4), of encoded scenes."""
    return numbers[:, 1:].reshape(len(numbers), len(PLACES), len(ATTRIBUTES))
