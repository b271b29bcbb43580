"""``selftrans import`` and ``selftrans export``."""

from pathlib import Path
from typing import Any, get_args

import click

from selftrans.cli.options import (
    FILE,
    Number,
    OneOf,
    WholeNumber,
    check_output,
    output_option,
    parse_json,
)
from selftrans.config import BackboneConfig, Convention, InterpolantName, Weights, restored

LEAST_SCALE, MOST_SHIFT = 1e-9, 1e9
"""Of latents: what is beyond them is a slip of the finger."""


@click.command(
    "import",
    epilog="""Example:

    \b
      selftrans import SiT-XL-2-256x256.pt --convention data-at-1 -o sit-xl2.safetensors""",
)
@click.argument("file", type=FILE)
@click.option(
    "--convention",
    type=OneOf(get_args(Convention)),
    help="SiT, LayerSync: data-at-1; the others: noise-at-1; a file of ours says it itself",
)
@output_option("our weight file (.safetensors)")
@click.option("--weights", type=OneOf(get_args(Weights)), help="[default: ema]")
@click.option(
    "--num-heads", type=WholeNumber(1), help="attention heads, where nothing in the file tells them"
)
@click.option(
    "--latent-size",
    type=WholeNumber(1),
    help="height of the latents, where nothing in the file tells it",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="PREFIX",
    help="tensors that may be left out (may be repeated)",
)
@click.option(
    "--step",
    type=WholeNumber(0),
    help="step of the training  [default: what the file says, else 0]",
)
@click.option(
    "--scale",
    type=Number(LEAST_SCALE, 1 / LEAST_SCALE),
    help="scale of the latents  [default: that of Stable Diffusion's]",
)
@click.option(
    "--shift", type=Number(-MOST_SHIFT, MOST_SHIFT), help="shift of the latents  [default: 0]"
)
@click.option("--interpolant", type=OneOf(get_args(InterpolantName)), help="[default: linear]")
@click.option("--name", help="name of the run  [default: the file's]")
@click.option("--expected", help="the backbone that it must be: an experiment's `model`, as JSON")
def import_command(file: Path, output: Path, expected: str | None, **options: Any) -> None:
    """Turn a public checkpoint FILE into a weight file of ours.

    SiT, REPA, SRA, LayerSync, Self-Transcendence (.pt, .pth, .bin, .safetensors), or our own.
    """
    check_output(output, file, suffix=".safetensors")
    backbone = None
    if expected is not None:
        backbone = restored(BackboneConfig, parse_json(expected, "--expected"), "--expected")

    from selftrans.convert import import_checkpoint

    print(f"{output}: {import_checkpoint(file, output, expected=backbone, **options)}")


@click.command()
@click.argument("weights", type=FILE)
@output_option("the directory")
def export(weights: Path, output: Path) -> None:
    """Turn a checkpoint's weight file WEIGHTS into a directory for others."""
    from selftrans.convert import export_checkpoint

    export_checkpoint(weights, output)


COMMANDS = {"import": import_command, "export": export}
