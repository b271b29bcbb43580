"""Feature extractors: uint8 images -> activations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from selftrans.config import ExtractorName
from selftrans.evaluation.activations import Activations
from selftrans.models.autoencoder import to_signed
from selftrans.models.classifier import ClassifierMetadata, ClassifierNetwork
from selftrans.runtime.errors import UserError


class Extractor(Protocol):
    """A feature network with fixed weights."""

    @property
    def name(self) -> str:
        """Name in result files."""
        ...

    @property
    def digest(self) -> str:
        """Digest of its weights: numbers of different extractors are never compared."""
        ...

    def __call__(self, images_BHWC: Tensor) -> Activations:
        """Activations of uint8 images (B, H, W, 3)."""
        ...


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
    """Load what ``selftrans.training.auxiliary.classifier`` wrote.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    tensors, metadata = ClassifierMetadata.load(path)
    network = ClassifierNetwork(metadata.settings, metadata.num_classes)
    network.load_state_dict(tensors)
    frozen = network.requires_grad_(False).eval().to(device)
    return ClassifierExtractor(frozen, metadata.digest, device)


def load_extractor(name: ExtractorName, weights: Path | None, device: torch.device) -> Extractor:
    """An extractor by name; ``weights`` is its file, which may be left out where the cache has it.

    Raises:
        UserError: the weights are absent, damaged or not the published ones.
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
