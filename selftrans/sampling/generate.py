"""Generation: a checkpoint and an autoencoder -> images, streamed to disk.

Sample i is a function of (seed, i): its label, its noise, its SDE path. So the images do not
depend on the batch size, on the number of processes or on an interruption, up to the rounding of
matrix products.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrans import __version__
from selftrans.config import (
    FIRST_IMAGES,
    SELECTION_FIELDS,
    Precision,
    SamplerConfig,
    Uint8Conversion,
)
from selftrans.data.images import ImageArchive, write_image_archive
from selftrans.models.autoencoder import (
    check_latents,
    decode_in_parts,
    in_precision,
    latent_scaling,
    load_autoencoder,
)
from selftrans.models.backbone import Backbone
from selftrans.models.metadata import WeightsMetadata
from selftrans.models.weights import load_backbone
from selftrans.runtime.devices import tf32_allowed
from selftrans.runtime.errors import UserError
from selftrans.runtime.events import PICTURE_COLUMNS, picture, tiled, write_event_file
from selftrans.runtime.files import read_json, write_json
from selftrans.runtime.lock import DirectoryLock
from selftrans.runtime.logs import LOG, Progress
from selftrans.runtime.tensors import DTYPES, digest_of
from selftrans.runtime.workers import Shard, Workers, run_sharded
from selftrans.sampling.conditions import sample_conditions
from selftrans.sampling.latents import SampleNoise, sample_latents
from selftrans.sampling.partial_images import PartialImages

CPU = torch.device("cpu")
PICTURE_ROWS = 4  # in TensorBoard


class ImageSampler:
    """A checkpoint and an autoencoder, ready to sample.

    Args:
        weights: weight file of a checkpoint.
        autoencoder: directory or hub name of the autoencoder that decodes.
        device: where to compute.
        other_decoder: whether another autoencoder made the latents, so that their digests differ.
        prompts: manifest of a caption store, whose captions samples are made of, for a model that
            is conditioned on captions.
        backbone: what ``load_backbone`` gave, if it was loaded before.

    Raises:
        UserError: the checkpoint or the autoencoder cannot be used, or they do not fit.
    """

    def __init__(
        self,
        weights: Path | str,
        autoencoder: str,
        device: torch.device = CPU,
        *,
        other_decoder: bool = False,
        prompts: Path | None = None,
        backbone: tuple[Backbone, WeightsMetadata] | None = None,
    ) -> None:
        self.device = device
        self.model, self.metadata = backbone or load_backbone(Path(weights), device)
        self._models = {"fp32": self.model, "tf32": self.model}
        self.conditions = sample_conditions(self.metadata, prompts)
        self.conditions.check_null(self.model.null_condition(1).cpu().numpy())
        self.autoencoder, self.decoder_name = load_autoencoder(autoencoder, device), autoencoder
        self.decoder_digest = digest_of(self.autoencoder.state_dict())
        self._check_decoder(is_encoder=not other_decoder)
        self._decoders = {"fp32": self.autoencoder}

    def _check_decoder(self, *, is_encoder: bool) -> None:
        """Refuse an autoencoder of other latents than those that the checkpoint was trained on.

        The scale of an imported checkpoint's latents was said by whoever imported it.
        """
        trained, channels = self.metadata.latents, self.metadata.shape.latent_shape[0]
        imported = self.metadata.imported is not None and trained.digest is None
        scale, _ = latent_scaling(self.autoencoder, self.decoder_name, channels)
        if imported and isinstance(scale, tuple):
            raise UserError(
                f"autoencoder {self.decoder_name!r}: latents_mean and latents_std hold a number for"
                " each channel, the checkpoint was imported with one scale for all"
                " (allowed: an autoencoder without them)"
            )
        check_latents(
            self.autoencoder,
            self.decoder_name,
            channels,
            None if trained.digest is None else trained.scale,
            trained.shift,
            "the checkpoint's latents",
        )
        made_by = trained.autoencoder_digest
        if is_encoder and made_by is not None and self.decoder_digest != made_by:
            raise UserError(
                f"autoencoder {self.decoder_name!r}: is not the one that made the latents, its"
                f" digest is {self.decoder_digest[:12]}, theirs {made_by[:12]}"
                " (allowed: that one, or another decoder by --decoder, `autoencoder.decoder`)"
            )

    def images(
        self, settings: SamplerConfig, indices: range, condition_B: NDArray[Any] | None = None
    ) -> NDArray[np.uint8]:
        """Samples ``indices``, (B, H, W, 3), under these conditions, or else under theirs.

        Raises:
            UserError: a condition is not one of the model.
        """
        if condition_B is None:
            condition_B = self.conditions.of_samples(settings, indices)
        self.conditions.check(condition_B)
        condition = torch.from_numpy(condition_B).to(self.device)
        noise = SampleNoise(settings.seed, indices, self.model.shape.latent_shape, self.device)
        if settings.precision not in self._models:
            self._models[settings.precision] = copy.deepcopy(self.model).to(
                DTYPES[settings.precision]
            )
        model = self._models[settings.precision]
        null, interpolant = model.null_condition(1), self.metadata.interpolant
        with tf32_allowed(settings.precision == "tf32"):
            z = sample_latents(model, settings, condition, noise, null, interpolant)
        unscaled = self.metadata.latents.unscaled(z)
        return self.decode(unscaled, settings.decoder_precision, settings.uint8)

    def decode(
        self,
        z_BCHW: Tensor,
        precision: Precision = "fp32",
        conversion: Uint8Conversion = "round",
    ) -> NDArray[np.uint8]:
        """Images (B, H, W, 3) of unscaled latents."""
        if precision not in self._decoders:
            self._decoders[precision] = in_precision(self.autoencoder, precision)
        return decode_in_parts(self._decoders[precision], z_BCHW, conversion)


def describe(settings: SamplerConfig, sampler: ImageSampler) -> dict[str, Any]:
    """All that a set of samples depends on; of Internal Guidance, which is new, only if it acts."""
    silent = SELECTION_FIELDS
    if settings.internal_guidance.scale == 1:
        silent = {*SELECTION_FIELDS, "internal_guidance"}
    return {
        **settings.model_dump(mode="json", exclude=silent),
        **sampler.conditions.description,
        "checkpoint": {
            key: getattr(sampler.metadata, key) for key in ("run", "seed", "step", "digest")
        },
        "decoder": sampler.decoder_name,
        "autoencoder_digest": sampler.decoder_digest,
        "versions": {
            "selftrans": __version__,
            **{name: version(name) for name in ("torch", "diffusers", "timm")},
        },
    }


class Generation:
    """A set of samples, drawn on any number of processes; resumes at the batch.

    Args:
        settings: of the set.
        sampler: checkpoint and autoencoder.
        output: the ``.npz``; batches lie beside it until the set is finished.
        batch_size: samples at a time.
        events: directory for a picture of the first images in TensorBoard, under the name of the
            output's directory.
    """

    def __init__(
        self,
        settings: SamplerConfig,
        sampler: ImageSampler,
        output: Path,
        batch_size: int,
        events: Path | None = None,
    ) -> None:
        self.settings, self.sampler = settings, sampler
        self.output, self.batch_size, self.events = output, batch_size, events
        self.description = describe(settings, sampler)
        self.partial = PartialImages(output.with_suffix(".partial"), self.description)

    def is_finished(self) -> bool:
        """Whether the set lies there with this description, which is written last."""
        with suppress(UserError):
            if read_json(self.output.with_suffix(".json")) != self.description:
                LOG.warning("%s: replaces a set of another description", self.output)
                return False
            images = ImageArchive(self.output)
            for _ in images.batches(range(len(images)), self.batch_size):
                pass  # read to its end, where its checksum is compared
            return len(images) == self.settings.num_samples and len(ImageArchive(self._first)) > 0
        return False

    def run(self, shard: Shard) -> None:
        """Draw this worker's share of the images, but for those that exist."""
        span = shard.span(self.settings.num_samples)
        todo = self.partial.missing(span, self.batch_size)
        done = len(span) - sum(map(len, todo))
        with Progress(len(span), "sampling", "image", initial=done, quiet=shard.rank > 0) as bar:
            for indices in todo:
                self.partial.add(indices, self.sampler.images(self.settings, indices))
                bar.update(len(indices))

    def finish(self, world_size: int = 1) -> None:
        """Write the whole set, its first images, and its description (JSON)."""
        count = self.settings.num_samples
        labels = self.sampler.conditions.labels(self.settings, range(count))
        write_image_archive(self.output, self.partial.batches(count), labels)
        archive = ImageArchive(self.output)
        first = next(archive.batches(range(min(FIRST_IMAGES, count)), FIRST_IMAGES))
        write_image_archive(self._first, [first], labels[: len(first)])
        if self.events is not None:
            name, shown = (
                self.output.absolute().parent.name,
                first[: PICTURE_ROWS * PICTURE_COLUMNS],
            )
            values = [picture(f"{name}/samples", tiled(shown))]
            write_event_file(self.events, f"samples-{name}", self.sampler.metadata.step, values)
        write_json(self.output.with_suffix(".json"), self.description)

    @property
    def _first(self) -> Path:
        """Beside ``samples.npz`` it is ``first.npz``; other sets may share a directory."""
        stem = self.output.stem
        return self.output.with_name("first.npz" if stem == "samples" else f"{stem}-first.npz")

    def remove_shares(self) -> None:
        """Remove the batches."""
        self.partial.remove()


def generate(
    weights: Path,
    autoencoder: str,
    settings: SamplerConfig,
    output: Path,
    *,
    other_decoder: bool = False,
    prompts: Path | None = None,
    batch_size: int = 256,
    events: Path | None = None,
    workers: Workers | None = None,
) -> None:
    """Write the images of a sampler, on any number of processes; resumes.

    Args:
        weights: weight file of a checkpoint.
        autoencoder: directory or hub name of what decodes.
        settings: the sampler.
        output: the ``.npz``; its first images and a ``.json`` go beside it.
        other_decoder: whether another autoencoder made the latents.
        prompts: manifest of the caption store whose captions samples are made of.
        batch_size: images at a time.
        events: directory for a picture of the first images in TensorBoard.
        workers: the processes; one on the CPU, if it is None.

    Raises:
        UserError: a file cannot be used.
    """
    run_sharded(
        workers or Workers(),
        lambda device: Generation(
            settings,
            ImageSampler(
                weights, autoencoder, device, other_decoder=other_decoder, prompts=prompts
            ),
            output,
            batch_size,
            events,
        ),
        DirectoryLock(output.parent, file=output.name, wait=True),
    )
