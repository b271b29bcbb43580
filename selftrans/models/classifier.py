"""A small image classifier: the feature extractor of data sets without published references."""

from typing import ClassVar

from torch import Tensor, nn

from selftrans.config import ClassifierConfig
from selftrans.runtime.metadata import FileMetadata


class ClassifierMetadata(FileMetadata):
    """Of a classifier's file."""

    kind: ClassVar[str] = "classifier"
    settings: ClassifierConfig
    num_classes: int
    held_out_accuracy: float
    """On images that it was not shown."""


class ClassifierNetwork(nn.Module):
    """Three convolutions that halve the resolution, a feature layer, logits."""

    def __init__(self, settings: ClassifierConfig, num_classes: int) -> None:
        super().__init__()
        width = settings.width
        self.convolutions = nn.Sequential(
            *_halving(3, width),
            *_halving(width, 2 * width),
            *_halving(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.features = nn.Linear(8 * width, settings.features)
        self.head = nn.Linear(settings.features, num_classes)

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, d) and logits (B, K) of images in [-1, 1]."""
        features = nn.functional.silu(self.features(self.convolutions(pixels_BCHW)))
        return features, self.head(features)


def _halving(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()
