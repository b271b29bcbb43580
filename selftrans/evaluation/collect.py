"""Images -> extractor -> statistics. ``python -m selftrans.evaluation.collect --help``."""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import load_data
from selftrans.data.images import read_image_archive
from selftrans.data.sources import batches, open_source
from selftrans.evaluation.extractors import Extractor, load_classifier
from selftrans.evaluation.statistics import Statistics
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import run_main
from selftrans.runtime.logs import set_up_logging


def collect(images: Iterable[NDArray[np.uint8]], extractor: Extractor) -> Statistics:
    """Statistics of all images, batch by batch."""
    statistics = Statistics(extractor.name, extractor.digest)
    for batch_BHWC in images:
        features, logits = extractor(torch.from_numpy(batch_BHWC.copy()))
        statistics.add(features.cpu().numpy(), logits.cpu().numpy())
    return statistics


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.evaluation.collect", description="Feature statistics of images."
    )
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--samples", type=Path, help=".npz with arr_0, uint8 (N, H, W, 3)")
    images.add_argument("--data", help="data file (YAML): the statistics of all its images, as a reference")
    parser.add_argument("--classifier", type=Path, required=True, help="weights of the embedded feature extractor")
    parser.add_argument("--batch-size", type=int, default=256, help="images at a time (default: 256)")
    parser.add_argument("--output", type=Path, required=True, help="the statistics (.npz)")
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    extractor = load_classifier(arguments.classifier, claim_device(arguments.gpus))
    if arguments.samples:
        source = read_image_archive(arguments.samples, arguments.batch_size)
    else:
        source = batches(open_source(load_data(arguments.data)), arguments.batch_size)
    collect(source, extractor).save(arguments.output)


if __name__ == "__main__":
    run_main(main)
