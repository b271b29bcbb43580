"""Training of the embedded feature extractor."""

from pathlib import Path

import torch

from selftrans.config import DatasetConfig
from selftrans.data.sources import open_source
from selftrans.models.classifier import ClassifierMetadata, ClassifierNetwork
from selftrans.runtime.logs import LOG
from selftrans.runtime.random import Stream, torch_seed
from selftrans.training.auxiliary.fit import fit_classifier


def train_classifier(data: DatasetConfig, device: torch.device) -> tuple[ClassifierNetwork, float]:
    """A classifier of the images of ``data``, and its accuracy on the held-out images."""
    settings = data.classifier
    torch.manual_seed(torch_seed(settings.seed, Stream.CLASSIFIER))
    network = ClassifierNetwork(settings, len(open_source(data).class_names)).to(device)
    accuracy = fit_classifier(
        network, lambda pixels: network(pixels)[1], data, settings, Stream.CLASSIFIER, "classifier"
    )
    return network, accuracy


def make_classifier(data: DatasetConfig, output: Path, device: torch.device) -> None:
    """Train the classifier of a data set and write its file, with its accuracy."""
    network, accuracy = train_classifier(data, device)
    LOG.info("accuracy on held-out images: %.4f", accuracy)
    metadata = ClassifierMetadata(
        settings=data.classifier,
        num_classes=network.head.out_features,
        held_out_accuracy=accuracy,
    )
    metadata.save(output, network.state_dict())
