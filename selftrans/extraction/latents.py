"""Extraction: images -> autoencoder -> latent store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import DatasetConfig
from selftrans.data.manifests import Manifest
from selftrans.data.sources import ImageSource, may_skip, open_source
from selftrans.data.sources.repa import PreparedMoments
from selftrans.data.store import LatentStore
from selftrans.data.writer import StoreWriter
from selftrans.extraction.shards import (
    EncodedBatch,
    batches_of,
    encode_images,
    encode_views,
    store_origin,
    write_shards,
)
from selftrans.models.autoencoder import (
    check_latents,
    decode,
    encode_moments,
    latent_scaling,
    load_autoencoder,
)
from selftrans.runtime.errors import UserError
from selftrans.runtime.events import PICTURE_COLUMNS, picture, tiled, write_event_file
from selftrans.runtime.logs import LOG
from selftrans.runtime.tensors import digest_of
from selftrans.runtime.workers import Shard, ShardedWork

if TYPE_CHECKING:
    from selftrans.models.autoencoder import Autoencoder

CPU = torch.device("cpu")
COMPARED_IMAGES = 4
"""Images on which prepared moments are compared with the autoencoder's."""
PREPARED_ERROR = 0.02
"""Largest mean difference, relative to their standard deviation: precisions and versions differ."""


class LatentExtraction(ShardedWork):
    """The extraction of a data set's latents, on any number of processes; resumes at the shard.

    Args:
        data: the data set.
        autoencoder_path: directory or hub name.
        directory: of the store.
        device: where images are encoded.
        events: directory for a picture of reconstructions in TensorBoard.

    Raises:
        UserError: the images or the autoencoder are absent, or not what the data file says.
    """

    def __init__(
        self,
        data: DatasetConfig,
        autoencoder_path: str,
        directory: Path,
        device: torch.device,
        events: Path | None = None,
    ) -> None:
        self.data, self.device, self.path = data, device, autoencoder_path
        self.events = events
        self.source: ImageSource = open_source(data)
        self.autoencoder: Autoencoder = load_autoencoder(autoencoder_path, device)
        channels = data.latent_shape[0]
        self.scale, self.shift = latent_scaling(self.autoencoder, autoencoder_path, channels)
        self.decoder = self._checked_decoder()
        digests = {"autoencoder_digest": digest_of(self.autoencoder.state_dict())}
        origin = store_origin(directory, data, self.source, digests, "autoencoder", "latents")
        self.views = 2 if data.latents.flip else 1
        self.writer = StoreWriter(
            directory, origin, len(self.source.labels), data.latents.shard_size
        )

    def _checked_decoder(self) -> Autoencoder:
        """What decodes; one of other latents is refused before anything is encoded or trained."""
        path = getattr(self.data.autoencoder, "decoder", None)
        if path is None:
            return self.autoencoder
        decoder, channels = load_autoencoder(path, self.device), self.data.latent_shape[0]
        check_latents(decoder, path, channels, self.scale, self.shift, f"{self.path!r}'s latents")
        ours, its = (digest_of(one.encoder.state_dict()) for one in (self.autoencoder, decoder))
        if ours != its:
            LOG.warning(
                "autoencoder.decoder: %s has another encoder than %s: its latents may be others",
                path,
                self.path,
            )
        return decoder

    def run(self, shard: Shard) -> None:
        """Encode this worker's shards, but for those that exist."""
        if isinstance(self.source, PreparedMoments):
            if self.source.has_images:
                self._check_prepared(self.source)
            elif shard.rank == 0:
                LOG.warning(
                    "data %r: the source has no images: that its moments are of autoencoder %r"
                    " cannot be checked",
                    self.data.name,
                    self.path,
                )
        write_shards(self.writer, self._encoded, shard)

    def finish(self, world_size: int = 1) -> Manifest:
        """Write labels and manifest over the shards.

        The scale is the autoencoder's; where it names none, one over the standard deviation of
        posterior samples, from the moments: Var = E[mean^2 + std^2] - E[mean]^2.
        """
        manifest = self.writer.finish(
            self.source.labels,
            self.source.names,
            class_names=self.source.class_names,
            latent_shape=self.data.latent_shape,
            image_size=self.data.image_size,
            dtype=self.data.latents.dtype,
            scale=self._measured_scale() if self.scale is None else self.scale,
            shift=self.shift,
            scale_origin="measured" if self.scale is None else "autoencoder",
            views=self.views,
        )
        skipped_note = f", {len(manifest.skipped)} left out" if manifest.skipped else ""
        LOG.info(
            "%d images%s, latents %s, scale %s",
            manifest.count,
            skipped_note,
            manifest.latent_shape,
            " ".join(f"{number:.5f}" for number in np.atleast_1d(manifest.scale)),
        )
        if self.events is not None:
            self._show_reconstructions(self.events, manifest)
        return manifest

    def _show_reconstructions(self, events: Path, manifest: Manifest) -> None:
        """Write a picture of some images, evenly spread, and below them of their stored means."""
        if isinstance(self.source, PreparedMoments) and not self.source.has_images:
            return
        chosen = np.linspace(0, manifest.count - 1, PICTURE_COLUMNS).astype(np.int64)
        images = open_source(self.data, manifest.skipped).read(chosen)
        moments = LatentStore(self.writer.directory / "manifest.json").moments(chosen)
        means_BCHW = torch.from_numpy(moments[:, 0]).float().to(self.device)
        decoded = decode(self.decoder, means_BCHW).cpu().numpy()
        values = [picture("autoencoder/reconstructions", tiled(np.concatenate([images, decoded])))]
        write_event_file(events, "reconstructions", 0, values)

    def _encoded(self, indices: range) -> Iterator[EncodedBatch]:
        """Means and standard deviations, (B V, 2, C, H, W), as they are stored."""
        if isinstance(self.source, PreparedMoments):
            for batch in batches_of(indices):
                yield EncodedBatch(batch, self._stored(self.source.moments(batch)), [])
        else:
            yield from encode_images(
                self.source, indices, self._encode_views, skip=may_skip(self.data)
            )

    def _encode_views(self, images_BHWC: torch.Tensor) -> NDArray[np.floating[Any]]:
        return self._stored(
            encode_views(self._encode, images_BHWC.to(self.device), self.views).cpu().numpy()
        )

    def _stored(self, moments: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Moments in the precision of the store, of the shape that follows from the data file."""
        if (shape := moments.shape[2:]) != self.data.latent_shape:
            raise UserError(
                f"autoencoder {self.path!r}: latents of shape {shape}, the data file's"
                f" latent_channels, downsampling and image_size make {self.data.latent_shape}"
            )
        return moments.astype(self.data.latents.dtype)

    def _encode(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        return encode_moments(self.autoencoder, images_BHWC, self.data.latents.precision)

    def _check_prepared(self, source: PreparedMoments) -> None:
        """Refuse moments that another autoencoder made, or of other images."""
        first = range(min(COMPARED_IMAGES, len(source.labels)))
        encoded = self._encode(torch.from_numpy(source.read(first)).to(self.device)).cpu().numpy()
        prepared = source.moments(first)
        if (
            encoded.shape != prepared.shape
            or np.abs(encoded - prepared).mean() > PREPARED_ERROR * encoded[:, 0].std()
        ):
            raise UserError(
                f"data {self.data.name!r}: the prepared moments are not of autoencoder"
                f" {self.path!r}"
            )

    def _measured_scale(self) -> float:
        sums = np.zeros(3)  # of 1, mean, mean^2 + std^2
        for number, start, stop in self.writer.ranges():
            for moments in np.array_split(self.writer.read(number), max(1, (stop - start) // 1024)):
                mean, std = np.moveaxis(moments.astype(np.float64), 1, 0)
                sums += mean.size, mean.sum(), np.square(mean).sum() + np.square(std).sum()
        return float(1 / np.sqrt(sums[2] / sums[0] - (sums[1] / sums[0]) ** 2))


def extract(
    data: DatasetConfig,
    autoencoder_path: str,
    directory: Path,
    device: torch.device = CPU,
    events: Path | None = None,
) -> Manifest:
    """Encode every image of ``data`` into the store in ``directory``; resumes at the shard."""
    extraction = LatentExtraction(data, autoencoder_path, directory, device, events)
    extraction.run(Shard.all())
    return extraction.finish()
