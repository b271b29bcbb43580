"""Images -> extractor -> statistics, on any number of processes."""

import dataclasses
import json
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans import __version__
from selftrans.config import ExtractorName
from selftrans.evaluation.extractors import Extractor, load_extractor
from selftrans.evaluation.images import ImageSet, open_images
from selftrans.evaluation.partial_statistics import load_partial_statistics, save_partial_statistics
from selftrans.evaluation.references import check_published, is_statistics, published_moments
from selftrans.evaluation.statistics import ImageStatistics, Statistics, features_path
from selftrans.runtime.arrays import map_array, write_npy_header
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import (
    atomic_path,
    file_identity,
    remove_stale_temp_files,
    sha256_of,
)
from selftrans.runtime.lock import DirectoryLock
from selftrans.runtime.logs import Progress
from selftrans.runtime.workers import Shard, Workers, run_sharded


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
        if moments:
            finished = dataclasses.replace(
                finished, gaussians={**finished.gaussians, **moments}, moments="published"
            )
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
        files = [] if weights is None else [file_identity(weights)]
        self.source = json.dumps(
            [open_images(images).identity, extractor, batch_size, *files, __version__]
        )

    def is_finished(self) -> bool:
        """Whether the output was computed from these images with these weights."""
        with suppress(UserError):
            finished = ImageStatistics.load(self.output)
            return finished.source == self.source and finished.features is not None
        return False

    def run(self, shard: Shard) -> None:
        """Write the sums and features of one process's share of the images, unless they exist."""
        path = self._share(shard.rank, shard.world_size)
        with suppress(UserError):
            load_partial_statistics(path, self.source)
            return
        extractor = load_extractor(self.extractor, self.weights, self.device)
        statistics = compute_statistics(
            open_images(self.images), extractor, path.with_suffix(".npy"), self.batch_size, shard
        )
        save_partial_statistics(statistics, path, self.source)

    def finish(self, world_size: int) -> None:
        """Merge the shares: statistics, and beside them all features in order.

        Raises:
            UserError: a share is missing, damaged, or of other images.
        """
        paths = [self._share(rank, world_size) for rank in range(world_size)]
        whole, *others = [load_partial_statistics(path, self.source) for path in paths]
        for other in others:
            whole.merge(other)
        shares = [map_array(path.with_suffix(".npy")) for path in paths]
        features = features_path(self.output)
        with FeatureFile(features, sum(map(len, shares))) as file:
            for rows in shares:
                file.add(rows)
        finished = dataclasses.replace(
            finish(whole, self.images), features_sha256=sha256_of(features), source=self.source
        )
        finished.save(self.output)
        remove_stale_temp_files(self.output.parent, features.stem)

    def remove_shares(self) -> None:
        """Remove the shares of the processes."""
        shutil.rmtree(self.shares, ignore_errors=True)

    def _share(self, rank: int, world_size: int) -> Path:
        return self.shares / f"{rank}-of-{world_size}.npz"


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
    dataclasses.replace(loaded, features_sha256=sha256_of(features_path(output))).save(output)


def write_statistics(
    images: Path,
    extractor: ExtractorName,
    weights: Path | None,
    output: Path,
    batch_size: int,
    workers: Workers,
) -> None:
    """Write the statistics of images, on any number of processes.

    Args:
        images: ``.npz`` with ``arr_0`` in uint8, (N, H, W, 3), a folder or a data file; of the ADM
            evaluator's reference batches, what they hold is taken.
        extractor: the feature network.
        weights: its weights; from the cache, if it is None.
        output: the statistics (``.npz``); features go beside it.
        batch_size: images at a time.
        workers: the processes.

    Raises:
        UserError: the images or weights cannot be used.
    """
    if is_statistics(images):
        reuse_statistics(images, extractor, output)
        return
    if workers.shard is None:
        check_published(images)
    run_sharded(
        workers,
        lambda device: StatisticsWork(images, extractor, weights, batch_size, output, device),
        DirectoryLock(output.parent, file=output.name, wait=True),
        most=len(open_images(images)),
    )
