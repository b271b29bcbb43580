"""Generation: a checkpoint and an autoencoder -> images, streamed to disk. ``python -m selftrans.sampling.generate --help``.

Sample i is a function of (seed, i): its label, its noise, its SDE path. So the images do not depend on the batch size, on
the number of processes or on an interruption, up to the rounding of matrix products.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrans import __version__
from selftrans.config import DECODED_ELEMENTS, FIRST_IMAGES, SamplerConfig, restored
from selftrans.data.images import ImageArchive, write_image_archive
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.flow.sampler import GuidedVelocity, Velocity, euler, euler_maruyama, heun
from selftrans.models.autoencoder import decode, load_autoencoder
from selftrans.models.weights import load_backbone
from selftrans.runtime.devices import allow_tf32, claim_device
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.files import atomic_path, read_json, write_json
from selftrans.runtime.logs import Progress, set_up_logging
from selftrans.runtime.random import Stream, generator
from selftrans.runtime.tensors import DTYPES, digest_of
from selftrans.runtime.workers import Shard, add_worker_arguments, run_workers

CPU = torch.device("cpu")


class SampleNoise:
    """The normal numbers of some samples: each sample has a generator of its own, drawn from once per call."""

    def __init__(
        self, seed: int, indices: range, shape: tuple[int, int, int], device: torch.device
    ) -> None:
        self._generators = [generator(seed, Stream.SAMPLE, index) for index in indices]
        self._shape, self._device = shape, device

    def __call__(self) -> Tensor:
        """The next draw of N(0, I), (B, C, H, W) in float64."""
        drawn = np.stack([rng.standard_normal(self._shape) for rng in self._generators])
        return torch.from_numpy(drawn).to(self._device)


def sample_labels(settings: SamplerConfig, indices: range, num_classes: int) -> NDArray[np.int64]:
    """Class of each sample: i modulo K, or drawn from (seed, i)."""
    if settings.labels == "balanced":
        return np.asarray(indices, dtype=np.int64) % num_classes
    draws = [
        generator(settings.seed, Stream.SAMPLE, index, 1).integers(num_classes) for index in indices
    ]
    return np.asarray(draws, dtype=np.int64)


@torch.inference_mode()
def sample_latents(
    model: Velocity,
    settings: SamplerConfig,
    labels_B: Tensor,
    noise: SampleNoise,
    null_class: int,
    interpolant: str = "linear",
) -> Tensor:
    """Latents (B, C, H, W) in float64, as the model sees them (scaled).

    Args:
        model: the velocity.
        settings: sampler, steps, guidance, precision.
        labels_B: classes.
        noise: the samples' normal numbers.
        null_class: the label that means "no label".
        interpolant: the one that the model was trained on.
    """
    guidance = settings.guidance
    field = GuidedVelocity(
        model=model, labels_B=labels_B, null_class=null_class, scale=guidance.scale, low=guidance.low,
        high=guidance.high, dtype=DTYPES.get(settings.precision, torch.float32),
    )  # fmt: skip
    x = noise()
    match settings.sampler:
        case "euler":
            return euler(field, field.is_guided, x, settings.num_steps)
        case "heun":
            return heun(field, field.is_guided, x, settings.num_steps)
        case "euler-maruyama":
            return euler_maruyama(
                field, field.is_guided, x, settings.num_steps, INTERPOLANTS[interpolant], noise
            )


class ImageSampler:
    """A checkpoint and an autoencoder, ready to sample.

    Args:
        weights: weight file of a checkpoint.
        autoencoder: directory or hub name of the autoencoder.
        device: where to compute.

    Raises:
        UserError: the checkpoint or the autoencoder cannot be used.
    """

    def __init__(self, weights: Path | str, autoencoder: str, device: torch.device = CPU) -> None:
        self.device = device
        self.model, self.metadata = load_backbone(Path(weights), device)
        self._models = {"fp32": self.model, "tf32": self.model}
        self.autoencoder = load_autoencoder(autoencoder, device)
        self._decoders = {"fp32": self.autoencoder}

    def labels(self, settings: SamplerConfig, indices: range) -> NDArray[np.int64]:
        """Class of each sample."""
        return sample_labels(settings, indices, self.model.shape.num_classes)

    def images(
        self, settings: SamplerConfig, indices: range, labels_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """Samples ``indices``, (B, H, W, 3), of their own classes or of given ones."""
        chosen = self.labels(settings, indices) if labels_B is None else labels_B
        labels = torch.from_numpy(chosen).to(self.device)
        noise = SampleNoise(settings.seed, indices, self.model.shape.latent_shape, self.device)
        if settings.precision not in self._models:
            self._models[settings.precision] = copy.deepcopy(self.model).to(
                DTYPES[settings.precision]
            )
        model = self._models[settings.precision]
        allow_tf32(settings.precision == "tf32")
        z = sample_latents(
            model, settings, labels, noise, model.null_class, self.metadata["interpolant"]
        )
        allow_tf32(False)
        latents = self.metadata["latents"]
        return self.decode(z / latents["scale"] + latents["shift"], settings.decoder_precision)

    def decode(self, z_BCHW: Tensor, precision: str = "fp32") -> NDArray[np.uint8]:
        """Images (B, H, W, 3) of unscaled latents, some at a time: a decoder needs far more memory than a backbone."""
        if precision not in self._decoders:
            self._decoders[precision] = copy.deepcopy(self.autoencoder).to(DTYPES[precision])
        decoder, size = self._decoders[precision], max(1, DECODED_ELEMENTS // z_BCHW[0].numel())
        return np.concatenate([decode(decoder, part).cpu().numpy() for part in z_BCHW.split(size)])


def describe(settings: SamplerConfig, sampler: ImageSampler) -> dict[str, Any]:
    """All that a set of samples depends on."""
    return {
        **settings.model_dump(mode="json", exclude={"checkpoints", "sweep"}),
        "checkpoint": {key: sampler.metadata[key] for key in ("run", "seed", "step", "digest")},
        "autoencoder_digest": digest_of(sampler.autoencoder.state_dict()),
        "versions": {
            "selftrans": __version__,
            **{name: version(name) for name in ("torch", "diffusers", "timm")},
        },
    }


def generate(
    settings: SamplerConfig,
    sampler: ImageSampler,
    partial: PartialImages,
    batch_size: int,
    shard: Shard | None = None,
) -> None:
    """Draw this worker's share of the images into ``partial``, but for those that are there already."""
    shard = shard or Shard.all()
    span = shard.span(settings.num_samples)
    todo = partial.missing(span, batch_size)
    done = len(span) - sum(map(len, todo))
    with Progress(len(span), "sampling", "image", initial=done, quiet=shard.rank > 0) as bar:
        for indices in todo:
            partial.add(indices, sampler.images(settings, indices))
            bar.update(len(indices))


def finish(settings: SamplerConfig, partial: PartialImages, num_classes: int, output: Path) -> None:
    """Put the whole set into ``output``, its first images into ``first.npz`` and what it is into a ``.json`` beside it."""
    pieces = partial.pieces(settings.num_samples)
    labels = sample_labels(settings, range(settings.num_samples), num_classes)
    write_image_archive(output, pieces, labels)
    first = next(
        ImageArchive(output).batches(range(min(FIRST_IMAGES, settings.num_samples)), FIRST_IMAGES)
    )
    write_image_archive(output.with_name("first.npz"), [first], labels[: len(first)])
    write_json(output.with_suffix(".json"), partial.description)
    partial.remove()


class PartialImages:
    """Images in the making: a file for each batch, whole or not there; so any worker goes on where another one stopped.

    Args:
        directory: where they lie.
        description: what they are; the remains of something else are discarded.
    """

    def __init__(self, directory: Path, description: dict[str, Any]) -> None:
        self.directory, self.description = directory, description
        record = directory / "description.json"
        if not record.is_file() or read_json(record) != description:
            self.remove()
            write_json(record, description)

    def missing(self, span: range, batch_size: int) -> list[range]:
        """What is still to be drawn of ``span``, in batches."""
        drawn = sorted(
            (there.start, there.stop) for there in self._drawn() if there.start < span.stop
        )
        batches, position = [], span.start
        for start, stop in [*drawn, (span.stop, span.stop)]:
            batches += [
                range(first, min(first + batch_size, start))
                for first in range(position, start, batch_size)
            ]
            position = max(position, stop)
        return batches

    def add(self, indices: range, images_BHWC: NDArray[np.uint8]) -> None:
        """Write a batch."""
        with atomic_path(self.directory / f"{indices.start:08}-{indices.stop:08}.npy") as temporary:
            np.save(temporary, images_BHWC)

    def pieces(self, count: int) -> Iterator[NDArray[np.uint8]]:
        """All images in order, a batch at a time."""
        drawn = sorted(self._drawn(), key=lambda there: there.start)
        assert [there.start for there in drawn] + [count] == [0] + [there.stop for there in drawn]
        for one in drawn:
            yield np.load(self.directory / f"{one.start:08}-{one.stop:08}.npy")

    def remove(self) -> None:
        """Remove what is there."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _drawn(self) -> list[range]:
        names = (path.stem.split("-") for path in self.directory.glob("????????-????????.npy"))
        return [range(int(start), int(stop)) for start, stop in names]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.sampling.generate", description="Sample images of a checkpoint."
    )
    parser.add_argument("weights", type=Path, help="weight file of a checkpoint")
    parser.add_argument(
        "--autoencoder", required=True, help="directory or hub name of the autoencoder"
    )
    parser.add_argument(
        "--settings", required=True, help="an entry of evaluation.samplers, as JSON"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="the .npz; its first images and a .json go beside it",
    )
    parser.add_argument(
        "--batch-size", type=int, default=256, help="images at a time (default: 256)"
    )
    add_worker_arguments(parser)
    arguments = parser.parse_args()
    set_up_logging()
    try:
        settings = restored(SamplerConfig, json.loads(arguments.settings), "--settings")
    except json.JSONDecodeError as error:
        raise UserError(f"--settings: not JSON ({error})") from None
    several = arguments.worker is None and max(arguments.gpus, arguments.processes) > 1
    device = CPU if several else claim_device(min(arguments.gpus, 1))
    sampler = ImageSampler(arguments.weights, arguments.autoencoder, device)
    partial = PartialImages(arguments.output.with_suffix(".partial"), describe(settings, sampler))
    if several:
        run_workers(
            "selftrans.sampling.generate",
            sys.argv[1:],
            gpus=arguments.gpus,
            processes=arguments.processes,
        )
    else:
        generate(settings, sampler, partial, arguments.batch_size, arguments.worker or Shard.all())
    if arguments.worker is None:
        finish(settings, partial, sampler.model.shape.num_classes, arguments.output)


if __name__ == "__main__":
    run_main(main)
