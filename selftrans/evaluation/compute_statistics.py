"""Images -> extractor -> statistics, on any number of processes.

``python -m selftrans.evaluation.compute_statistics --help``
"""

import argparse
import dataclasses
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import EXTRACTORS, ExtractorName
from selftrans.data.images import write_npy_header
from selftrans.evaluation.extractors import Extractor, load_extractor
from selftrans.evaluation.images import ImageSet, open_images
from selftrans.evaluation.partial_statistics import load_partial_statistics, save_partial_statistics
from selftrans.evaluation.references import check_published, is_statistics, published_moments
from selftrans.evaluation.statistics import ImageStatistics, Statistics, features_path
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.files import atomic_path, remove_stale_temp_files
from selftrans.runtime.logs import Progress, set_up_logging
from selftrans.runtime.workers import Shard, add_worker_arguments, run_sharded


class FeatureFile:
    """An ``.npy`` of ``count`` rows, written as they come; whole or absent.

    A memory map would keep the rows in memory.
    """

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
    """Finished statistics; an ADM reference batch brings its moments, which replace the images'."""
    finished = statistics.finished()
    if finished.extractor == "inception" and reference.suffix == ".npz":
        moments = published_moments(reference, finished.count)
        for kind, gaussian in moments.items():
            if (size := len(gaussian.mean)) != (expected := len(finished.gaussians[kind].mean)):
                raise UserError(
                    f"{reference}: its {kind} moments have {size} elements,"
                    f" Inception has {expected}"
                )
        finished = dataclasses.replace(finished, gaussians={**finished.gaussians, **moments})
    return finished


class StatisticsWork:
    """Statistics of a set of images, computed by any number of processes.

    Args:
        images: path of the images.
        extractor: name of the feature network.
        weights: its file; None where the cache has it.
        batch_size: images at a time.
        output: the statistics; the processes' shares lie beside it until they are merged.
        device: where features are computed.
    """

    def __init__(
        self,
        images: Path,
        extractor: ExtractorName,
        weights: Path | None,
        batch_size: int,
        output: Path,
        device: torch.device,
    ) -> None:
        self.images, self.extractor, self.weights = images, extractor, weights
        self.batch_size, self.output, self.device = batch_size, output, device
        self.shares = output.with_suffix(".parts")

    def run(self, shard: Shard) -> None:
        """Write the sums and features of one process's share of the images."""
        extractor = load_extractor(self.extractor, self.weights, self.device)
        features = self.shares / f"{shard.rank}.npy"
        statistics = compute_statistics(
            open_images(self.images), extractor, features, self.batch_size, shard
        )
        save_partial_statistics(statistics, self.shares / f"{shard.rank}.npz")

    def finish(self, world_size: int) -> None:
        """Merge the shares: statistics, and beside them all features in order."""
        ranks = range(world_size)
        whole, *others = [load_partial_statistics(self.shares / f"{rank}.npz") for rank in ranks]
        for other in others:
            whole.merge(other)
        if world_size == 1:
            (self.shares / "0.npy").replace(features_path(self.output))
        else:
            features = [np.load(self.shares / f"{rank}.npy", mmap_mode="r") for rank in ranks]
            with FeatureFile(features_path(self.output), sum(map(len, features))) as file:
                for rows in features:
                    file.add(rows)
        finish(whole, self.images).save(self.output)
        shutil.rmtree(self.shares)
        remove_stale_temp_files(self.output.parent, features_path(self.output).stem)


def reuse_statistics(statistics: Path, extractor: ExtractorName, output: Path) -> None:
    """Write statistics that were computed before as ``output``.

    Raises:
        UserError: they are of another extractor, or their features do not lie beside them.
    """
    loaded = ImageStatistics.load(statistics)
    if loaded.extractor != extractor:
        raise UserError(
            f"{statistics}: are of {loaded.extractor} features, requested are {extractor}"
        )
    if loaded.features is None:
        raise UserError(
            f"{features_path(statistics)}: no such file; the features belong to {statistics.name}"
        )
    with FeatureFile(features_path(output), len(loaded.features)) as file:
        for start in range(0, len(loaded.features), 1024):
            file.add(loaded.features[start : start + 1024])
    loaded.save(output)


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
    parser.add_argument("--weights", type=Path, help="its weights (default: from the cache)")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time (default: 64)")
    parser.add_argument(
        "--output", type=Path, required=True, help="the statistics (.npz); features go beside it"
    )
    add_worker_arguments(parser)
    arguments = parser.parse_args()
    set_up_logging()
    if is_statistics(arguments.images):
        reuse_statistics(arguments.images, arguments.extractor, arguments.output)
        return
    if arguments.worker is None:
        check_published(arguments.images)
    run_sharded(
        "selftrans.evaluation.compute_statistics",
        arguments,
        lambda device: StatisticsWork(
            arguments.images,
            arguments.extractor,
            arguments.weights,
            arguments.batch_size,
            arguments.output,
            device,
        ),
        most=len(open_images(arguments.images)),
    )


if __name__ == "__main__":
    run_main(main)
