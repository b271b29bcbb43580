"""Extraction: images -> encoder -> feature store."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import DatasetConfig
from selftrans.data.manifests import FeatureManifest
from selftrans.data.sources import may_skip, open_source
from selftrans.data.writer import StoreWriter
from selftrans.extraction.shards import (
    EncodedBatch,
    encode_images,
    encode_views,
    store_origin,
    write_shards,
)
from selftrans.models.encoder import load_encoder
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG
from selftrans.runtime.workers import Shard, ShardedWork

CPU = torch.device("cpu")
BYTES_PER_ELEMENT = 2


def feature_bytes(rows: int, grid_size: int, hidden_size: int) -> int:
    """Size of a store: ImageNet's 1,281,167 images at ViT-B, 16x16 tokens of 768, are 504 GB."""
    return rows * grid_size**2 * hidden_size * BYTES_PER_ELEMENT


class FeatureExtraction(ShardedWork):
    """The extraction of a data set's features, on any number of processes; resumes at the shard.

    Args:
        data: the data set.
        encoder_path: the encoder's file.
        directory: of the store.
        device: where images are encoded.

    Raises:
        UserError: the images or the encoder are absent, or the disk has no room for the features.
    """

    def __init__(
        self, data: DatasetConfig, encoder_path: Path, directory: Path, device: torch.device
    ) -> None:
        self.data, self.device = data, device
        self.source, self.encoder = open_source(data), load_encoder(encoder_path, device)
        digests = {"encoder_digest": self.encoder.digest}
        origin = store_origin(directory, data, self.source, digests)
        self.views = 2 if data.latents.flip else 1
        shard_size = data.latents.shard_size
        self.writer = StoreWriter(
            directory, origin, len(self.source.labels), shard_size, content="features"
        )
        self._require_room(directory)

    def run(self, shard: Shard) -> None:
        """Encode this worker's shards, but for those that exist."""
        write_shards(self.writer, self._encoded, shard)

    def finish(self, world_size: int = 1) -> FeatureManifest:
        """Write the manifest over the shards."""
        return self.writer.write_manifest(
            FeatureManifest,
            encoder=self.encoder.name,
            encoder_digest=self.encoder.digest,
            stand_in=self.encoder.stand_in,
            grid_size=self.encoder.grid_size,
            hidden_size=self.encoder.hidden_size,
            views=self.views,
        )

    def _encoded(self, indices: range) -> Iterator[EncodedBatch]:
        return encode_images(self.source, indices, self._encode, skip=may_skip(self.data))

    def _encode(self, images_BHWC: torch.Tensor) -> NDArray[np.floating[Any]]:
        return encode_views(self.encoder, images_BHWC, self.views).half().cpu().numpy()

    def _require_room(self, directory: Path) -> None:
        missing = sum(
            stop - start
            for number, start, stop in self.writer.ranges()
            if not self.writer.has(number)
        )
        needed = feature_bytes(
            missing * self.views, self.encoder.grid_size, self.encoder.hidden_size
        )
        directory.mkdir(parents=True, exist_ok=True)
        if needed > (free := shutil.disk_usage(directory).free):
            raise UserError(
                f"{directory}: the features need {needed / 1e9:.1f} GB, the disk has"
                f" {free / 1e9:.1f} GB free; `features: images` computes them at every step instead"
            )
        LOG.info("%d images, %.3g GB of features to write", self.writer.count, needed / 1e9)


def extract_features(
    data: DatasetConfig, encoder_path: Path, directory: Path, device: torch.device = CPU
) -> FeatureManifest:
    """Encode every image of ``data`` into the store in ``directory``; resumes at the shard."""
    extraction = FeatureExtraction(data, encoder_path, directory, device)
    extraction.run(Shard.all())
    return extraction.finish()
