"""Extraction: captions -> text encoder -> caption store.

Every caption of every image is encoded once; so a training needs no text encoder.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from selftrans.config import DatasetConfig, TextEncoderConfig
from selftrans.data.caption_store import OFFSETS_FILE, TEXTS_FILE
from selftrans.data.captions import captions_digest
from selftrans.data.manifests import CaptionManifest
from selftrans.data.sources import open_source
from selftrans.data.writer import StoreWriter
from selftrans.extraction.shards import (
    EncodedBatch,
    batches_of,
    one_thread,
    store_origin,
    write_shards,
)
from selftrans.flops import caption_bytes
from selftrans.models.text_encoder import load_text_encoder
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import atomic_path, sha256_of, write_json
from selftrans.runtime.logs import LOG
from selftrans.runtime.workers import Shard, ShardedWork

CPU = torch.device("cpu")


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
        source = open_source(data)
        if source.captions is None:
            raise UserError(f"data {data.name!r}: text_encoder: the source has no captions")
        named = zip(source.names, source.captions, strict=True)
        self.captions = [captions for name, captions in named if name not in skipped]
        self.directory = directory
        self.encoder = load_text_encoder(text_encoder_of(data), device)
        self.texts = ["", *chain.from_iterable(self.captions)]
        if not skipped and data.captions not in (None, count := len(self.texts) - 1):
            raise UserError(
                f"data {data.name!r}: captions: the source has {count}, the data file says"
                f" {data.captions}"
            )
        digests = {
            "captions_digest": captions_digest(self.captions),
            "text_encoder_digest": self.encoder.digest,
        }
        origin = store_origin(directory, data, source, digests)
        self.writer = StoreWriter(
            directory, origin, len(self.texts), data.latents.shard_size, content="captions"
        )
        self._require_room()

    def run(self, shard: Shard) -> None:
        """Encode this worker's shards, but for those that exist."""
        write_shards(self.writer, self._encoded, shard)

    def finish(self, world_size: int = 1) -> CaptionManifest:
        """Write offsets, texts and the manifest over the shards."""
        offsets = np.cumsum([1, *map(len, self.captions)], dtype=np.int64)
        offsets_path = self.directory / OFFSETS_FILE
        with atomic_path(offsets_path) as temporary, temporary.open("wb") as file:
            np.save(file, offsets, allow_pickle=False)
        write_json(self.directory / TEXTS_FILE, self.captions)
        truncated = self._truncated()
        if truncated:
            LOG.warning(
                "%d of %d captions have more than %d tokens: the rest of them is cut off",
                truncated,
                len(self.texts) - 1,
                self.encoder.length,
            )
        return self.writer.write_manifest(
            CaptionManifest,
            images=len(self.captions),
            encoder=self.encoder.name,
            encoder_digest=self.encoder.digest,
            stand_in=self.encoder.stand_in,
            length=self.encoder.length,
            size=self.encoder.size,
            truncated=truncated,
            offsets_sha256=sha256_of(offsets_path),
            texts_sha256=sha256_of(self.directory / TEXTS_FILE),
        )

    def _encoded(self, indices: range) -> Iterator[EncodedBatch]:
        with one_thread():
            for batch in batches_of(indices):
                texts = [self.texts[index] for index in batch]
                rows = self.encoder(texts).half().cpu().numpy()
                if not np.isfinite(rows).all():
                    raise UserError(f"text encoder {self.encoder.name!r}: features are not finite")
                yield EncodedBatch(batch, rows, [])

    def _truncated(self) -> int:
        """Captions of more tokens than are kept."""
        parts = (self.texts[start : start + 4096] for start in range(0, len(self.texts), 4096))
        return sum(map(self.encoder.count_truncated, parts))

    def _require_room(self) -> None:
        missing = sum(
            stop - start
            for number, start, stop in self.writer.ranges()
            if not self.writer.has(number)
        )
        needed = caption_bytes(missing - 1, self.encoder.length, self.encoder.size)
        self.directory.mkdir(parents=True, exist_ok=True)
        if needed > (free := shutil.disk_usage(self.directory).free):
            raise UserError(
                f"{self.directory}: the captions' features need {needed / 1e9:.1f} GB, the disk has"
                f" {free / 1e9:.1f} GB free"
            )
        LOG.info("%d captions, %.3g GB of features to write", len(self.texts) - 1, needed / 1e9)


def text_encoder_of(data: DatasetConfig) -> TextEncoderConfig:
    """The text encoder of a data set.

    Raises:
        UserError: its data file names none.
    """
    if data.text_encoder is None:
        raise UserError(f"data {data.name!r}: text_encoder: is not set")
    return data.text_encoder
