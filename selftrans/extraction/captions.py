"""Extraction: captions -> text encoder -> caption store.

Every caption of every image is encoded once; so a training needs no text encoder.
"""

from __future__ import annotations

import hashlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import DatasetConfig, PreparedTextConfig
from selftrans.data.captions import captions_digest
from selftrans.data.manifests import CaptionManifest
from selftrans.data.sources import may_skip, open_source
from selftrans.data.sources.uvit import PreparedText
from selftrans.data.writer import StoreWriter
from selftrans.extraction.shards import (
    EncodedBatch,
    batches_of,
    one_thread,
    store_origin,
    write_shards,
)
from selftrans.flops import caption_bytes
from selftrans.models.text_encoder import TextEncoder, load_text_encoder
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG
from selftrans.runtime.workers import Shard, ShardedWork

CPU = torch.device("cpu")
COUNTED = 4096  # captions whose tokens are counted at a time


class CaptionRows(ABC):
    """The rows of a caption store: the empty caption's, then those of every image's captions.

    Attributes:
        texts: the captions of every image.
        name, digest, stand_in: of what encoded them.
        shape: (L, K) of a row.
    """

    texts: Sequence[Sequence[str]]
    name: str
    digest: str
    stand_in: bool
    shape: tuple[int, int]

    @abstractmethod
    def read(self, rows: range) -> NDArray[Any]:
        """Some of them, (B, L, K)."""

    @abstractmethod
    def truncated(self) -> int:
        """How many captions have more than L tokens."""


class EncodedCaptions(CaptionRows):
    """Captions that a text encoder encodes.

    Args:
        texts: the captions of every image.
        encoder: the text encoder.
    """

    def __init__(self, texts: Sequence[Sequence[str]], encoder: TextEncoder) -> None:
        self.texts, self._encoder = texts, encoder
        self.name, self.digest = encoder.name, encoder.digest
        self.stand_in, self.shape = encoder.stand_in, (encoder.length, encoder.size)
        self._lines = ["", *chain.from_iterable(texts)]

    def read(self, rows: range) -> NDArray[Any]:
        """The features of some captions."""
        lines = [self._lines[row] for row in rows]
        return np.asarray(self._encoder(lines).half().cpu().numpy())

    def truncated(self) -> int:
        """Counted without encoding."""
        starts = range(0, len(self._lines), COUNTED)
        parts = (self._lines[start : start + COUNTED] for start in starts)
        return sum(map(self._encoder.count_truncated, parts))


class PreparedCaptions(CaptionRows):
    """Features that somebody else's preparation made; the texts may be unknown.

    Args:
        source: the prepared data.
        shape: (L, K), as the data file says.

    Raises:
        UserError: the features have another shape.
    """

    name, stand_in = "prepared", False

    def __init__(self, source: PreparedText, shape: tuple[int, int]) -> None:
        self._source, self.shape = source, shape
        self._of_image = lru_cache(maxsize=1)(source.text_features)  # its captions are neighbours
        empty = source.empty_text_features()
        if empty.shape != shape:
            raise UserError(
                f"text_encoder: length, size: {shape}, the prepared features have {empty.shape}"
            )
        self.digest = hashlib.sha256(empty.astype(np.float32).tobytes()).hexdigest()
        self.texts = source.captions or [[""] * count for count in source.counts]
        self._images = np.repeat(np.arange(len(source.counts)), source.counts)
        self._firsts = np.cumsum([0, *source.counts])

    def read(self, rows: range) -> NDArray[Any]:
        """Row 0 is the empty caption's."""
        features = []
        for row in rows:
            if row == 0:
                features.append(self._source.empty_text_features())
                continue
            image = int(self._images[row - 1])
            features.append(self._of_image(image)[row - 1 - self._firsts[image]])
        return np.stack(features).astype(np.float16)

    def truncated(self) -> int:
        """Nobody knows."""
        return 0


def rows_of(data: DatasetConfig, device: torch.device, skipped: Collection[str]) -> CaptionRows:
    """The rows of a data set's caption store.

    Raises:
        UserError: there are no captions, or nothing that encodes them.
    """
    source, settings = open_source(data), data.text_encoder
    if settings is None:
        raise UserError(f"data {data.name!r}: text_encoder: is not set")
    if isinstance(settings, PreparedTextConfig):
        assert isinstance(source, PreparedText)
        return PreparedCaptions(source, settings.shape)
    if source.captions is None:
        raise UserError(f"data {data.name!r}: text_encoder: the source has no captions")
    named = zip(source.names, source.captions, strict=True)
    texts = [captions for name, captions in named if name not in skipped]
    return EncodedCaptions(texts, load_text_encoder(settings, device))


class CaptionExtraction(ShardedWork):
    """The extraction of a data set's captions, on any number of processes; resumes at the shard.

    Args:
        data: the data set.
        directory: of the store.
        device: where captions are encoded.
        skipped: names of images that have no latents, and whose captions are left out.

    Raises:
        UserError: there are no captions or no text encoder, or the disk has no room.
    """

    def __init__(
        self,
        data: DatasetConfig,
        directory: Path,
        device: torch.device,
        skipped: Collection[str] = (),
    ) -> None:
        self.directory, self.rows = directory, rows_of(data, device, skipped)
        count = sum(map(len, self.rows.texts))
        if not count:
            raise UserError(f"data {data.name!r}: text_encoder: no image has a caption")
        left_out = may_skip(data) and data.captions is not None and count < data.captions
        if not left_out and data.captions not in (None, count):
            raise UserError(
                f"data {data.name!r}: captions: the source has {count}, the data file says"
                f" {data.captions}"
            )
        digests = {
            "captions_digest": captions_digest([tuple(texts) for texts in self.rows.texts]),
            "text_encoder_digest": self.rows.digest,
        }
        origin = store_origin(directory, data, open_source(data), digests)
        size = data.latents.shard_size
        self.writer = StoreWriter(directory, origin, count + 1, size, content="captions")
        self._require_room()

    def run(self, shard: Shard) -> None:
        """Encode this worker's shards, but for those that exist."""
        write_shards(self.writer, self._encoded, shard)

    def finish(self, world_size: int = 1) -> CaptionManifest:
        """Write offsets, texts and the manifest over the shards."""
        rows = self.rows
        if truncated := rows.truncated():
            LOG.warning(
                "%d of %d captions have more than %d tokens: the rest of them is cut off",
                truncated,
                self.writer.count - 1,
                rows.shape[0],
            )
        return self.writer.finish_captions(
            rows.texts,
            rows.shape,
            encoder=rows.name,
            encoder_digest=rows.digest,
            stand_in=rows.stand_in,
            truncated=truncated,
        )

    def _encoded(self, indices: range) -> Iterator[EncodedBatch]:
        with one_thread():
            for batch in batches_of(indices):
                rows = self.rows.read(batch)
                if not np.isfinite(rows).all():
                    raise UserError(f"text encoder {self.rows.name!r}: features are not finite")
                yield EncodedBatch(batch, rows, [])

    def _require_room(self) -> None:
        missing = sum(
            stop - start
            for number, start, stop in self.writer.ranges()
            if not self.writer.has(number)
        )
        needed = caption_bytes(missing - 1, *self.rows.shape)
        self.directory.mkdir(parents=True, exist_ok=True)
        if needed > (free := shutil.disk_usage(self.directory).free):
            raise UserError(
                f"{self.directory}: the captions' features need {needed / 1e9:.1f} GB, the disk has"
                f" {free / 1e9:.1f} GB free"
            )
        LOG.info("%d captions, %.3g GB of features to write", self.writer.count - 1, needed / 1e9)
