"""Feature extractors: uint8 images -> activations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from selftrans.config import ClassifierConfig, ExtractorName
from selftrans.evaluation.activations import Activations
from selftrans.models.autoencoder import to_signed
from selftrans.runtime.errors import UserError
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

    def __call__(self, images_BHWC: Tensor) -> Activations:
        """Activations of uint8 images (B, H, W, 3)."""
        ...


class ClassifierNetwork(nn.Module):
    """Three convolutions that halve the resolution, a feature layer, logits."""

    def __init__(self, settings: ClassifierConfig, num_classes: int) -> None:
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
    def __call__(self, images_BHWC: Tensor) -> Activations:
        """Activations of uint8 images (B, H, W, 3)."""
        features, logits = self.network(to_signed(images_BHWC.to(self.device)))
        return Activations(features=features, logits=logits)


def load_classifier(path: Path, device: torch.device) -> ClassifierExtractor:
    """Load what ``selftrans.training.classifier`` wrote.

    Raises:
        UserError: the file is absent, damaged or holds something else.
    """
    tensors, metadata = load_tensors(path, "classifier")
    network = ClassifierNetwork(ClassifierConfig(**metadata["settings"]), metadata["num_classes"])
    network.load_state_dict(tensors)
    return ClassifierExtractor(
        network.requires_grad_(False).eval().to(device), metadata["digest"], device
    )


def load_extractor(name: ExtractorName, weights: Path | None, device: torch.device) -> Extractor:
    """An extractor by name; ``weights`` is its file, which may be left out where the cache has it.

    Raises:
        UserError: the weights are absent, damaged or others.
    """
    match name:
        case "classifier":
            if weights is None:
                raise UserError(
                    "--weights: the classifier extractor needs the file that its training wrote"
                )
            return load_classifier(weights, device)
        case "inception":
            from selftrans.evaluation.inception import load_inception

            return load_inception(weights, device)
        case "dinov2":
            from selftrans.evaluation.dinov2 import load_dinov2

            return load_dinov2(weights, device)
