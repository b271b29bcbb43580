"""Training of the embedded feature extractor.

``python -m selftrans.training.auxiliary.classifier --help``
"""

from pathlib import Path

import torch

from selftrans.config import DatasetConfig, load_dataset
from selftrans.data.sources import open_source
from selftrans.models.classifier import ClassifierMetadata, ClassifierNetwork
from selftrans.runtime.arguments import CommandLine
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import run_main
from selftrans.runtime.logs import LOG, set_up_logging
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


def main() -> None:
    """The command line."""
    parser = CommandLine(
        prog="python -m selftrans.training.auxiliary.classifier",
        description="Train the embedded feature extractor.",
    )
    parser.add_argument("data", help="data file (YAML)")
    parser.add_argument("--output", type=Path, required=True, help="the weight file")
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    data = load_dataset(arguments.data)
    network, accuracy = train_classifier(data, claim_device(arguments.gpus))
    LOG.info("accuracy on held-out images: %.4f", accuracy)
    metadata = ClassifierMetadata(
        settings=data.classifier,
        num_classes=network.head.out_features,
        held_out_accuracy=accuracy,
    )
    metadata.save(arguments.output, network.state_dict())


if __name__ == "__main__":
    run_main(main)
