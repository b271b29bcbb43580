"""Public checkpoints in, ours out.

``python -m selftrans.convert import --help``, ``... export --help``
"""

import argparse
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import get_args

from safetensors.torch import save_file

from selftrans import __version__
from selftrans.config import BackboneConfig, Convention, InterpolantName, Weights, restored
from selftrans.models.conversion import read_checkpoint, read_shape, to_ours
from selftrans.models.metadata import ImportedFrom, LatentScaling, WeightsMetadata
from selftrans.models.shape import SiTShape
from selftrans.models.weights import CPU, load_backbone
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.files import atomic_path, sha256_of, write_json
from selftrans.runtime.logs import LOG, set_up_logging

SD_SCALE = 0.18215  # of Stable Diffusion's autoencoder, which the public models were trained on
SIT_GUIDED_CHANNELS = 3  # SiT's forward_with_cfg, and LayerSync's, take the others from v_c


def import_checkpoint(
    file: Path,
    output: Path,
    *,
    convention: Convention,
    weights: Weights = "ema",
    num_heads: int | None = None,
    latent_size: int | None = None,
    ignore: Collection[str] = (),
    step: int | None = None,
    scale: float = SD_SCALE,
    shift: float = 0.0,
    interpolant: InterpolantName = "linear",
    name: str | None = None,
    expected: BackboneConfig | None = None,
) -> str:
    """Write a public checkpoint as a weight file of ours and return the digest of its tensors.

    Args:
        file: the public file.
        output: our weight file.
        convention: the model's direction of time.
        weights: averaged or raw, where the file has both.
        num_heads: attention heads, where nothing in the file tells them.
        latent_size: height of the latents, where nothing in the file tells it.
        ignore: prefixes of tensors that are no part of the backbone.
        step: the training's step (if it is not given: what the file says, else 0).
        scale: a latent that the model sees is (latent - shift) * scale.
        shift: see ``scale``.
        interpolant: the one that the model was trained on.
        name: the run's name (if it is not given: the file's).
        expected: the backbone that it must be; tells the heads, too.

    Raises:
        UserError: the file cannot be used, or its model has another shape.
    """
    public = read_checkpoint(file)
    tensors = public.tensors(weights)
    if expected is not None:
        num_heads = num_heads or expected.num_heads
    shape = read_shape(tensors, file, num_heads=num_heads, latent_size=latent_size)
    if expected is not None:
        wanted = SiTShape.of(expected, shape.latent_shape, shape.num_classes).to_json()
        for key, value in shape.to_json().items():
            if value != wanted[key]:
                raise UserError(f"{file}: {key} is {value}, expected {wanted[key]}")
    if convention == "data-at-1" and shape.latent_shape[0] > SIT_GUIDED_CHANNELS:
        LOG.info(
            "%s: SiT's published guided numbers guided %d of the %d channels (its"
            " forward_with_cfg); a sampler's `guidance: {channels: %d}` reproduces that",
            file,
            SIT_GUIDED_CHANNELS,
            shape.latent_shape[0],
            SIT_GUIDED_CHANNELS,
        )
    metadata = WeightsMetadata(
        run=name or file.stem,
        seed=0,
        step=step if step is not None else public.step or 0,
        fingerprint=sha256_of(file),
        shape=shape,
        interpolant=interpolant,
        latents=LatentScaling(digest=None, scale=scale, shift=shift),
        version=__version__,
        weights=weights,
        imported=ImportedFrom(file=file.name, convention=convention),
    )
    return metadata.save(output, to_ours(tensors, shape, convention, file, ignore))


def export_checkpoint(weights: Path, output: Path) -> None:
    """Write a weight file for others into a directory: plain tensors, and a ``config.json``.

    ``load_exported`` reads it.

    Raises:
        UserError: the file is not a weight file.
    """
    model, metadata = load_backbone(weights, CPU)
    with atomic_path(output / "model.safetensors") as temporary:
        save_file(model.state_dict(), temporary, metadata={"format": "pt"})
    write_json(output / "config.json", metadata.model_dump(mode="json"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.convert",
        description="Read public checkpoints, write ours for others.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    reading = commands.add_parser(
        "import", help="a public checkpoint becomes a weight file of ours"
    )
    reading.add_argument(
        "file",
        type=Path,
        help="SiT, REPA, SRA, LayerSync, Self-Transcendence (.pt, .pth, .bin, .safetensors)",
    )
    reading.add_argument(
        "--convention",
        choices=get_args(Convention),
        required=True,
        help="SiT, LayerSync: data-at-1; the others: noise-at-1",
    )
    reading.add_argument(
        "--output", type=Path, required=True, help="our weight file (.safetensors)"
    )
    reading.add_argument(
        "--weights", choices=get_args(Weights), default="ema", help="(default: ema)"
    )
    reading.add_argument(
        "--num-heads", type=int, help="attention heads, where nothing in the file tells them"
    )
    reading.add_argument(
        "--latent-size", type=int, help="height of the latents, where nothing in the file tells it"
    )
    reading.add_argument(
        "--ignore",
        nargs="+",
        action="extend",
        default=[],
        metavar="PREFIX",
        help="tensors that may be left out",
    )
    reading.add_argument(
        "--step", type=int, help="step of the training (default: what the file says, else 0)"
    )
    reading.add_argument(
        "--scale", type=float, default=SD_SCALE, help=f"scale of the latents (default: {SD_SCALE})"
    )
    reading.add_argument(
        "--shift", type=float, default=0.0, help="shift of the latents (default: 0)"
    )
    reading.add_argument(
        "--interpolant",
        choices=get_args(InterpolantName),
        default="linear",
        help="(default: linear)",
    )
    reading.add_argument("--name", help="name of the run (default: the file's)")
    reading.add_argument(
        "--expected", help="the backbone that it must be: an experiment's `model`, as JSON"
    )
    writing = commands.add_parser(
        "export", help="a weight file of ours becomes a directory for others"
    )
    writing.add_argument("weights", type=Path, help="weight file of a checkpoint")
    writing.add_argument("--output", type=Path, required=True, help="the directory")
    arguments = vars(parser.parse_args())
    set_up_logging()
    if arguments.pop("command") == "export":
        export_checkpoint(**arguments)
        return
    for option, least in (("num_heads", 1), ("latent_size", 1), ("step", 0)):
        if (value := arguments[option]) is not None and value < least:
            raise UserError(
                f"--{option.replace('_', '-')}: {value} is too small (allowed: {least} or more)"
            )
    if not 0 < arguments["scale"] < math.inf:
        raise UserError(
            f"--scale: {arguments['scale']} is not a scale (allowed: a positive number)"
        )
    if not math.isfinite(arguments["shift"]):
        raise UserError(f"--shift: {arguments['shift']} is not a shift (allowed: a finite number)")
    if arguments["output"].suffix != ".safetensors":
        raise UserError(
            f"--output: {arguments['output']} is not a weight file's name (allowed: .safetensors)"
        )
    if arguments["expected"] is not None:
        try:
            expected = json.loads(arguments["expected"])
        except json.JSONDecodeError as error:
            raise UserError(f"--expected: not JSON ({error})") from None
        arguments["expected"] = restored(BackboneConfig, expected, "--expected")
    print(f"{arguments['output']}: {import_checkpoint(**arguments)}")


if __name__ == "__main__":
    run_main(main)
