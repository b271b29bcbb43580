"""Feature extractors: images in uint8 -> features for FID, logits for the Inception score."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from selftrans.config import Classifier
from selftrans.models.autoencoder import to_signed
from selftrans.runtime.tensors import load_tensors


class Extractor(Protocol):
    """A feature network with fixed weights."""

    @property
    def name(self) -> str:
        """What it is called in result files."""
        ...

    @property
    def digest(self) -> str:
        """Digest of its weights: numbers of different extractors are never compared."""
        ...

    def __call__(self, images_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, d) and logits (B, classes) of uint8 images."""
        ...


class ClassifierNetwork(nn.Module):
    """Three convolutions that halve the resolution, a feature layer, logits."""

    def __init__(self, settings: Classifier, num_classes: int) -> None:
        super().__init__()
        width = settings.width
        self.convolutions = nn.Sequential(
            *_halving(3, width), *_halving(width, 2 * width), *_halving(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.features = nn.Linear(8 * width, settings.features)
        self.head = nn.Linear(settings.features, num_classes)

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, d) and logits (B, K) of images in [-1, 1]."""
        features = nn.functional.silu(self.features(self.convolutions(pixels_BCHW)))
        return features, self.head(features)


def _halving(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()


@dataclass(frozen=True)
class ClassifierExtractor:
    """The embedded experiment's extractor: a classifier trained on the data itself.

    Its FID says something within one data set only; it is never comparable with an Inception FID.
    """

    network: ClassifierNetwork
    digest: str
    device: torch.device
    name: str = "classifier"

    @torch.inference_mode()
    def __call__(self, images_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, d) and logits (B, K) of uint8 images."""
        return self.network(to_signed(images_BHWC.to(self.device)))


def load_classifier(path: Path, device: torch.device) -> ClassifierExtractor:
    """Load what ``selftrans.training.classifier`` wrote.

    Raises:
        UserError: the file is absent, damaged or holds something else.
    """
    tensors, metadata = load_tensors(path, "classifier")
    network = ClassifierNetwork(Classifier(**metadata["settings"]), metadata["num_classes"])
    network.load_state_dict(tensors)
    return ClassifierExtractor(network.requires_grad_(False).eval().to(device), metadata["digest"], device)
