"""Training of the embedded feature extractor. ``python -m selftrans.training.classifier --help``."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from selftrans.config import Data, load_data
from selftrans.data.sources import open_source
from selftrans.evaluation.extractors import ClassifierNetwork
from selftrans.models.autoencoder import to_signed
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import run_main
from selftrans.runtime.logs import LOG, set_up_logging
from selftrans.runtime.random import Stream, generator, torch_seed
from selftrans.runtime.tensors import save_tensors
from selftrans.training.fit import fit, shuffled

NOISE = 0.1  # standard deviation of pixel noise in [-1, 1]: keeps the features from hanging on single pixels


def train_classifier(data: Data, device: torch.device) -> tuple[ClassifierNetwork, float]:
    """A classifier of the images of ``data`` and its accuracy on every tenth image, which it was not shown."""
    settings = data.classifier
    torch.manual_seed(torch_seed(settings.seed, Stream.CLASSIFIER))
    source = open_source(data)
    images, labels = torch.from_numpy(source.read(0, len(source.labels))), torch.from_numpy(source.labels)
    held_out = np.arange(len(images)) % 10 == 0
    shown, hidden = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    network = ClassifierNetwork(settings, len(source.class_names)).to(device)
    order = shuffled(generator(settings.seed, Stream.CLASSIFIER, 1), len(shown), settings.batch_size)

    def loss_of_step(_: int) -> Tensor:
        chosen = shown[next(order)]
        pixels = to_signed(images[chosen].to(device))
        _, logits = network(pixels + NOISE * torch.randn_like(pixels))
        return nn.functional.cross_entropy(logits, labels[chosen].to(device))

    fit(network, loss_of_step, settings.steps, settings.learning_rate, "classifier")
    with torch.inference_mode():
        _, logits = network(to_signed(images[hidden].to(device)))
    accuracy = (logits.argmax(dim=1).cpu() == labels[hidden]).double().mean().item()
    return network, accuracy


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.training.classifier", description="Train the embedded feature extractor."
    )
    parser.add_argument("data", help="data file (YAML)")
    parser.add_argument("--output", type=Path, required=True, help="the weight file")
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    data = load_data(arguments.data)
    network, accuracy = train_classifier(data, claim_device(arguments.gpus))
    LOG.info("accuracy on held-out images: %.4f", accuracy)
    facts = {
        "settings": data.classifier.model_dump(),
        "num_classes": network.head.out_features,
        "held_out_accuracy": accuracy,
    }
    save_tensors(arguments.output, network.state_dict(), "classifier", facts)


if __name__ == "__main__":
    run_main(main)
