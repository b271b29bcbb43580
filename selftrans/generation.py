"""Generation: a checkpoint and an autoencoder -> images, streamed to disk. ``python -m selftrans.generation --help``.

Sample i is a function of (seed, i): its label, its noise, its SDE path. So the images do not depend on the batch size or
on an interruption, up to the rounding of matrix products.
"""

import argparse
import copy
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrans import __version__
from selftrans.config import Sampler, validated
from selftrans.data.images import write_image_archive
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.flow.sampler import GuidedVelocity, Velocity, euler, euler_maruyama, heun
from selftrans.models.autoencoder import decode, load_autoencoder
from selftrans.models.weights import load_backbone
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.files import read_json, write_json
from selftrans.runtime.logs import Progress, set_up_logging
from selftrans.runtime.random import Stream, generator
from selftrans.runtime.tensors import digest_of

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class SampleNoise:
    """The normal numbers of some samples: each sample has a generator of its own, drawn from once per call."""

    def __init__(self, seed: int, indices: range, shape: tuple[int, int, int], device: torch.device) -> None:
        self._generators = [generator(seed, Stream.SAMPLE, index) for index in indices]
        self._shape, self._device = shape, device

    def __call__(self) -> Tensor:
        """The next draw of N(0, I), (B, C, H, W) in float64."""
        drawn = np.stack([rng.standard_normal(self._shape) for rng in self._generators])
        return torch.from_numpy(drawn).to(self._device)


def sample_labels(settings: Sampler, indices: range, num_classes: int) -> NDArray[np.int64]:
    """Class of each sample: i modulo K, or drawn from (seed, i)."""
    if settings.labels == "balanced":
        return np.asarray(indices, dtype=np.int64) % num_classes
    draws = [generator(settings.seed, Stream.SAMPLE, index, 1).integers(num_classes) for index in indices]
    return np.asarray(draws, dtype=np.int64)


@torch.inference_mode()
def sample_latents(
    model: Velocity,
    settings: Sampler,
    labels_B: Tensor,
    noise: SampleNoise,
    null_class: int,
    path: str = "linear",
) -> Tensor:
    """Latents (B, C, H, W) in float64, as the model sees them (scaled).

    Args:
        model: the velocity.
        settings: sampler, steps, guidance, precision.
        labels_B: classes.
        noise: the samples' normal numbers.
        null_class: the label that means "no label".
        path: the interpolant that the model was trained on.
    """
    guidance = settings.guidance
    field = GuidedVelocity(
        model=model, labels_B=labels_B, null_class=null_class, scale=guidance.scale, low=guidance.low,
        high=guidance.high, dtype=DTYPES[settings.precision],
    )  # fmt: skip
    x = noise()
    match settings.sampler:
        case "euler":
            return euler(field, field.is_guided, x, settings.num_steps)
        case "heun":
            return heun(field, field.is_guided, x, settings.num_steps)
        case "euler-maruyama":
            return euler_maruyama(field, field.is_guided, x, settings.num_steps, INTERPOLANTS[path], noise)


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
        self.model, self.facts = load_backbone(Path(weights), device)
        self._models = {"fp32": self.model}
        self.autoencoder = load_autoencoder(autoencoder, device)

    def labels(self, settings: Sampler, indices: range) -> NDArray[np.int64]:
        """Class of each sample."""
        return sample_labels(settings, indices, self.model.shape.num_classes)

    def images(self, settings: Sampler, indices: range) -> NDArray[np.uint8]:
        """Samples ``indices``, (B, H, W, 3)."""
        labels = torch.from_numpy(self.labels(settings, indices)).to(self.device)
        noise = SampleNoise(settings.seed, indices, self.model.shape.latent_shape, self.device)
        if settings.precision not in self._models:
            self._models[settings.precision] = copy.deepcopy(self.model).to(DTYPES[settings.precision])
        model = self._models[settings.precision]
        z = sample_latents(model, settings, labels, noise, model.null_class, self.facts["path"])
        latents = self.facts["latents"]
        return decode(self.autoencoder, z / latents["scale"] + latents["shift"]).cpu().numpy()


def generate(
    settings: Sampler, weights: Path, autoencoder: str, output: Path, device: torch.device, batch_size: int = 256
) -> dict[str, Any]:
    """Write ``num_samples`` images to ``output`` (.npz) and what they are to the ``.json`` beside it.

    Progress lies in a directory beside ``output`` until the archive is whole; the same call goes on there.

    Raises:
        UserError: the checkpoint or the autoencoder cannot be used.
    """
    sampler = ImageSampler(weights, autoencoder, device)
    description = {
        **settings.model_dump(mode="json", exclude={"checkpoints"}),
        "checkpoint": {key: sampler.facts[key] for key in ("run", "seed", "step", "digest")},
        "autoencoder_digest": digest_of(sampler.autoencoder.state_dict()),
        "versions": {"selftrans": __version__, **{name: version(name) for name in ("torch", "diffusers", "timm")}},
    }
    everything = range(settings.num_samples)
    with PartialImages(output.with_suffix(".partial"), settings.num_samples, description) as partial:
        with Progress(settings.num_samples, "sampling", "image", initial=partial.done) as bar:
            while partial.done < settings.num_samples:
                indices = everything[partial.done : partial.done + batch_size]
                partial.append(sampler.images(settings, indices))
                bar.update(len(indices))
        write_image_archive(output, partial.images(), sampler.labels(settings, everything))
    write_json(output.with_suffix(".json"), description)
    return description


class PartialImages:
    """Images in the making: a memory-mapped file and the number that are done; removed when the work is done.

    Args:
        directory: where they lie.
        count: how many there will be.
        description: what they are; the remains of something else are discarded.
    """

    def __init__(self, directory: Path, count: int, description: dict[str, Any]) -> None:
        self.directory, self.count, self.description = directory, count, description
        self._file, self._record = directory / "images.npy", directory / "done.json"
        self.done = 0

    def __enter__(self) -> "PartialImages":
        if self._record.is_file() and self._file.is_file():
            record = read_json(self._record)
            self.done = record["done"] if record["description"] == self.description else 0
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            shutil.rmtree(self.directory)

    def append(self, images_BHWC: NDArray[np.uint8]) -> None:
        """Write the next images and record that they are there."""
        if self.done == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            shape = (self.count, *images_BHWC.shape[1:])
            whole = np.lib.format.open_memmap(self._file, mode="w+", dtype=np.uint8, shape=shape)
        else:
            whole = np.lib.format.open_memmap(self._file, mode="r+")
        whole[self.done : self.done + len(images_BHWC)] = images_BHWC
        whole.flush()
        self.done += len(images_BHWC)
        write_json(self._record, {"done": self.done, "description": self.description})

    def images(self) -> NDArray[np.uint8]:
        """All images, memory-mapped."""
        return np.lib.format.open_memmap(self._file, mode="r")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.generation", description="Sample images of a checkpoint."
    )
    parser.add_argument("weights", type=Path, help="weight file of a checkpoint")
    parser.add_argument("--autoencoder", required=True, help="directory or hub name of the AutoencoderKL")
    parser.add_argument("--settings", required=True, help="an entry of evaluation.samplers, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="the .npz; a .json is written beside it")
    parser.add_argument("--batch-size", type=int, default=256, help="images at a time (default: 256)")
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    try:
        settings = validated(Sampler, json.loads(arguments.settings), "--settings")
    except json.JSONDecodeError as error:
        raise UserError(f"--settings: not JSON ({error})") from None
    device = claim_device(arguments.gpus)
    generate(settings, arguments.weights, arguments.autoencoder, arguments.output, device, arguments.batch_size)


if __name__ == "__main__":
    run_main(main)
