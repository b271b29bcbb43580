"""Images -> extractor -> statistics, on any number of processes.

``python -m selftrans.evaluation.compute_statistics --help``
"""

import argparse
import dataclasses
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import EXTRACTORS
from selftrans.data.images import write_npy_header
from selftrans.evaluation.extractors import Extractor, load_extractor
from selftrans.evaluation.images import ImageSet, open_images
from selftrans.evaluation.partial_statistics import load_partial_statistics, save_partial_statistics
from selftrans.evaluation.references import check_published, is_statistics, published_moments
from selftrans.evaluation.statistics import ImageStatistics, Statistics, features_path
from selftrans.runtime.devices import claim_device
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.files import atomic_path, remove_stale_temp_files
from selftrans.runtime.logs import Progress, set_up_logging
from selftrans.runtime.workers import Shard, add_worker_arguments, run_workers


class FeatureFile:
    """An ``.npy`` of ``count`` rows, written as they come (a memory map would keep them in memory); whole or not there."""

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._count = path, count
        self._stack = ExitStack()

    def __enter__(self) -> "FeatureFile":
        self._file = self._stack.enter_context(
            self._stack.enter_context(atomic_path(self._path)).open("wb")
        )
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, rows_BD: NDArray[np.float32]) -> None:
        """Append rows."""
        if self._file.tell() == 0:
            write_npy_header(self._file, np.dtype(np.float32), (self._count, rows_BD.shape[1]))
        self._file.write(np.ascontiguousarray(rows_BD).data)


def compute_statistics(
    images: ImageSet,
    extractor: Extractor,
    features: Path,
    batch_size: int = 64,
    shard: Shard | None = None,
) -> Statistics:
    """Statistics of this worker's share of the images; their features go to a file as they come.

    Raises:
        UserError: an image cannot be read, or an activation is not finite.
    """
    statistics = Statistics(extractor.name, extractor.digest)
    shard = shard or Shard.all()
    span = shard.span(len(images))
    with (
        FeatureFile(features, len(span)) as file,
        Progress(len(span), f"{extractor.name} features", "image", quiet=shard.rank > 0) as bar,
    ):
        first = span.start
        for batch_BHWC in images.batches(span, batch_size):
            statistics.image_size = (batch_BHWC.shape[1], batch_BHWC.shape[2])
            file.add(statistics.add(first, extractor(torch.from_numpy(batch_BHWC.copy()))))
            first += len(batch_BHWC)
            bar.update(len(batch_BHWC))
    assert first == span.stop
    return statistics


def finish(statistics: Statistics, reference: Path) -> ImageStatistics:
    """Finished statistics; where the images are an ADM reference batch, its own moments take the place of theirs."""
    finished = statistics.finished()
    if finished.extractor == "inception" and reference.suffix == ".npz":
        moments = published_moments(reference, finished.count)
        for kind, gaussian in moments.items():
            if (width := len(gaussian.mean)) != (own := len(finished.gaussians[kind].mean)):
                raise UserError(
                    f"{reference}: its {kind} moments have {width} numbers, Inception has {own}"
                )
        finished = dataclasses.replace(finished, gaussians={**finished.gaussians, **moments})
    return finished


def merge_parts(directory: Path, workers: int, output: Path) -> Statistics:
    """The whole of what the workers left in ``directory``; their features, in order, go beside ``output``."""
    parts = [load_partial_statistics(directory / f"{number}.npz") for number in range(workers)]
    whole = parts[0]
    for part in parts[1:]:
        whole.merge(part)
    features = [np.load(directory / f"{number}.npy", mmap_mode="r") for number in range(workers)]
    with FeatureFile(features_path(output), sum(map(len, features))) as file:
        for part_features in features:
            file.add(part_features)
    return whole


def take_over(statistics: Path, extractor: str, output: Path) -> None:
    """Use statistics that were collected before.

    Raises:
        UserError: they are of another extractor, or their features do not lie beside them.
    """
    found = ImageStatistics.load(statistics)
    if found.extractor != extractor:
        raise UserError(
            f"{statistics}: are of {found.extractor} features, asked for are {extractor}"
        )
    if found.features is None:
        raise UserError(
            f"{features_path(statistics)}: no such file; the features belong to {statistics.name}"
        )
    with FeatureFile(features_path(output), len(found.features)) as file:
        for start in range(0, len(found.features), 1024):
            file.add(found.features[start : start + 1024])
    found.save(output)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.evaluation.compute_statistics",
        description="Feature statistics of images.",
    )
    parser.add_argument(
        "images",
        type=Path,
        help=".npz with arr_0 in uint8 (N, H, W, 3), folder, or data file (.yaml)",
    )
    parser.add_argument("--extractor", choices=EXTRACTORS, required=True, help="feature network")
    parser.add_argument(
        "--weights", type=Path, help="its weights (default: where they are fetched to)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    parser.add_argument(
        "--output", type=Path, required=True, help="the statistics (.npz); features go beside it"
    )
    add_worker_arguments(parser)
    arguments = parser.parse_args()
    set_up_logging()
    parts = arguments.output.with_suffix(".parts")
    if is_statistics(arguments.images):
        take_over(arguments.images, arguments.extractor, arguments.output)
        return
    if arguments.worker is None:
        check_published(arguments.images)
    images = open_images(arguments.images)
    gpus, processes = min(arguments.gpus, len(images)), min(arguments.processes, len(images))
    if arguments.worker is None and max(gpus, processes) > 1:
        run_workers(
            "selftrans.evaluation.compute_statistics", sys.argv[1:], gpus=gpus, processes=processes
        )
        statistics = merge_parts(parts, gpus or processes, arguments.output)
        finish(statistics, arguments.images).save(arguments.output)
        shutil.rmtree(parts)
        return
    extractor = load_extractor(
        arguments.extractor, arguments.weights, claim_device(min(arguments.gpus, 1))
    )
    if arguments.worker is not None:
        number = arguments.worker.number
        statistics = compute_statistics(
            images, extractor, parts / f"{number}.npy", arguments.batch_size, arguments.worker
        )
        save_partial_statistics(statistics, parts / f"{number}.npz")
        return
    statistics = compute_statistics(
        images, extractor, features_path(arguments.output), arguments.batch_size
    )
    finish(statistics, arguments.images).save(arguments.output)
    remove_stale_temp_files(arguments.output.parent, features_path(arguments.output).stem)


if __name__ == "__main__":
    run_main(main)
