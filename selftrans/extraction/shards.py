"""What extractions share: images decoded in threads, encoded in fixed batches, written in shards.

A shard is written by one process, so its bytes do not depend on the number of processes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrans.config import ENCODE_BATCH, LOCATION_FIELDS, DatasetConfig, dataset_identity
from selftrans.config.identity import differences
from selftrans.data.sources import CorruptImage, ImageSource
from selftrans.data.writer import StoreWriter
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json
from selftrans.runtime.logs import LOG, Progress
from selftrans.runtime.workers import Shard

BATCHES_AHEAD = 2


class EncodedBatch(NamedTuple):
    """Some neighbouring images, encoded."""

    indices: range
    rows: NDArray[np.floating[Any]]
    """Their rows; the views of an image are neighbours."""
    skipped: list[int]
    """Indices of those that cannot be decoded and have no row."""


def write_shards(
    writer: StoreWriter, encoded: Callable[[range], Iterable[EncodedBatch]], shard: Shard
) -> None:
    """Write this worker's shards, but for those that exist.

    Args:
        writer: of the store.
        encoded: the batches of a shard's images.
        shard: which worker this is.

    Raises:
        UserError: none of a shard's images can be decoded.
    """
    mine = [part for part in writer.ranges() if part[0] % shard.world_size == shard.rank]
    todo = [part for part in mine if not writer.is_sound(part[0])]
    total, left = (sum(stop - start for _, start, stop in parts) for parts in (mine, todo))
    if shard.rank == 0:
        writer.record_origin()
    with Progress(total, "encoding", "image", initial=total - left, quiet=shard.rank > 0) as bar:
        for number, start, stop in todo:
            with writer.shard(number) as file:
                for batch in encoded(range(start, stop)):
                    file.skipped += batch.skipped
                    if len(batch.rows):
                        file.append(batch.rows)
                    bar.update(len(batch.indices))
                if not file.count:
                    raise UserError(f"images {start} to {stop - 1}: none of them can be decoded")


def store_origin(
    directory: Path,
    data: DatasetConfig,
    source: ImageSource,
    digests: Mapping[str, str],
    *parts: str,
) -> dict[str, Any]:
    """What a store's rows depend on: images, parts of the data file, digests of what encodes them.

    Without paths: a store stays valid when images and autoencoder are moved. An origin that an
    earlier attempt recorded in other words, and that means the same, is returned as it is recorded:
    its shards are known by it.

    Args:
        directory: of the store.
        data: the data set.
        source: its images.
        digests: of the autoencoder or encoder, by name.
        parts: keys of the data file that the rows depend on, beside the images.
    """
    keys = ("source", "image_size", *parts)
    kept = {**dataset_identity(data, *keys), "images": source.digest}
    for file in ("origin.json", "manifest.json"):
        if not (path := directory / file).is_file():
            continue
        try:
            recorded = read_json(path)
        except UserError as error:  # of a killed node: what it says is not needed
            LOG.warning("passing over a record that cannot be used: %s", error)
            continue
        if file == "manifest.json" and isinstance(recorded, dict):
            recorded = recorded.get("origin")
        if _means(recorded, data, source, digests, keys):
            return dict(recorded)
    return {"data": kept, **digests}


def _means(
    recorded: Any,
    data: DatasetConfig,
    source: ImageSource,
    digests: Mapping[str, str],
    keys: tuple[str, ...],
) -> bool:
    """Whether a recorded origin means the same data and the same encoder."""
    if not isinstance(recorded, dict) or not isinstance(before := recorded.get("data"), dict):
        return False
    if before.get("images") != source.digest:
        return False
    if any(recorded.get(name) != digest for name, digest in digests.items()):
        return False
    settings = {key: value for key, value in before.items() if key not in ("images", "defaults")}
    version = before.get("defaults", 1)
    different = differences(data, settings, version, "data", only=keys, exclude=LOCATION_FIELDS)
    return not any(different)


def batches_of(indices: range) -> list[range]:
    """A shard's images in batches, as they are encoded."""
    return [indices[first : first + ENCODE_BATCH] for first in range(0, len(indices), ENCODE_BATCH)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def encode_images(
    source: ImageSource,
    indices: range,
    encode: Callable[[Tensor], NDArray[np.floating[Any]]],
    *,
    skip: bool,
) -> Iterator[EncodedBatch]:
    """Decode images in this process's threads and encode them.

    While a batch is encoded, the next ones are decoded. On a CPU the encoder computes in one
    thread: the order of sums depends on the number of threads, and the stored bytes must not.

    Args:
        source: the images.
        indices: which of them.
        encode: rows of uint8 images (B, H, W, 3).
        skip: leave out images that cannot be decoded.

    Raises:
        CorruptImage: an image cannot be decoded, and may not be left out.
    """
    with (
        ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="decode") as pool,
        one_thread(),
    ):
        for batch, images in _decoded(source, batches_of(indices), pool):
            skipped = []
            for index, image in zip(batch, images, strict=True):
                if isinstance(image, CorruptImage):
                    if not skip:
                        pool.shutdown(cancel_futures=True)
                        raise image
                    LOG.warning("left out: %s", image)
                    skipped.append(index)
            sound = [image for image in images if not isinstance(image, CorruptImage)]
            rows = encode(torch.from_numpy(np.stack(sound))) if sound else np.empty(0, np.float32)
            yield EncodedBatch(batch, rows, skipped)


def _decoded(
    source: ImageSource, batches: list[range], pool: ThreadPoolExecutor
) -> Iterator[tuple[range, list[NDArray[np.uint8] | CorruptImage]]]:
    """Batches of images, each with the error in place of an image that cannot be decoded."""
    coming: deque[list[Future[NDArray[np.uint8] | CorruptImage]]] = deque()

    def read(index: int) -> NDArray[np.uint8] | CorruptImage:
        try:
            return source.read(range(index, index + 1))[0]
        except CorruptImage as error:
            return error

    for number, batch in enumerate(batches):
        for ahead in batches[number + len(coming) : number + 1 + BATCHES_AHEAD]:
            coming.append([pool.submit(read, index) for index in ahead])
        yield batch, [image.result() for image in coming.popleft()]


def encode_views(encode: Callable[[Tensor], Tensor], images_BHWC: Tensor, views: int) -> Tensor:
    """Rows of images, or of images and their mirror images, alternating."""
    rows = encode(images_BHWC)
    if views == 1:
        return rows
    return torch.stack([rows, encode(images_BHWC.flip(2))], dim=1).flatten(0, 1)
