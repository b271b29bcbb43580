"""``selftrans import`` and ``selftrans export``."""

from pathlib import Path
from typing import Any, Literal, get_args

import click

from selftrans.cli.options import (
    FILE,
    Number,
    OneOf,
    WholeNumber,
    autoencoder_option,
    check_one_decoder,
    check_output,
    decoder_option,
    output_option,
    parse_json,
)
from selftrans.config import (
    Convention,
    InterpolantName,
    SamplerConfig,
    Weights,
    backbone_class,
    restored,
)
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_text

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
    "--empty-context",
    type=FILE,
    help="features of the empty caption, an MMDiT's null condition (.npy)",
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

    SiT, REPA, SRA, LayerSync, Self-Transcendence (.pt, .pth, .bin, .safetensors), or our own; of
    classes or captions.
    """
    check_output(output, file, suffix=".safetensors")
    backbone = None
    if expected is not None:
        settings = parse_json(expected, "--expected")
        try:
            model = backbone_class(settings)
        except ValueError as error:
            raise UserError(f"--expected: {error}") from None
        backbone = restored(model, settings, "--expected")

    from selftrans.convert import import_checkpoint

    print(f"{output}: {import_checkpoint(file, output, expected=backbone, **options)}")


@click.command(
    epilog="""Example:

    \b
      selftrans export results/digits/runs/sit/seed0/checkpoints/3000/ema.safetensors \\
          --to diffusers --output sit-digits"""
)
@click.argument("weights", type=FILE)
@output_option("the directory")
@click.option(
    "--to",
    "form",
    type=OneOf(("plain", "diffusers")),
    default="plain",
    show_default=True,
    help="plain tensors, or a folder that SiTPipeline loads; what follows is for the latter, and is"
    " read off the results around WEIGHTS where it is not given",
)
@autoencoder_option
@decoder_option
@click.option("--settings", help="steps and guidance: an entry of evaluation.samplers, as JSON")
@click.option("--data", help="name of the data, for the model card")
@click.option("--class-names", type=FILE, help="a text file with a name in each line")
@click.option(
    "--metrics",
    "metrics_files",
    type=FILE,
    multiple=True,
    help="metrics file of these weights, for the card (may be repeated)",
)
@click.option("--license", "license_name", help="of the weights, for the model card")
def export(
    weights: Path,
    output: Path,
    form: Literal["plain", "diffusers"],
    autoencoder: str | None,
    decoder: str | None,
    settings: str | None,
    data: str | None,
    class_names: Path | None,
    metrics_files: tuple[Path, ...],
    license_name: str | None,
) -> None:
    """Turn a checkpoint's weight file WEIGHTS into a directory for others."""
    if form == "plain":
        options = {
            "autoencoder": autoencoder, "decoder": decoder, "settings": settings, "data": data,
            "class-names": class_names, "metrics": metrics_files, "license": license_name,
        }  # fmt: skip
        if given := [name for name, value in options.items() if value]:
            raise UserError(
                f"--{given[0]}: is of an export for diffusers (allowed: --to diffusers)"
            )

        from selftrans.convert import export_checkpoint

        export_checkpoint(weights, output)
        return

    check_one_decoder(autoencoder, decoder)

    from selftrans.pipeline.export import export_pipeline

    sampler = None
    if settings is not None:
        sampler = restored(SamplerConfig, parse_json(settings, "--settings"), "--settings")
    export_pipeline(
        weights,
        output,
        autoencoder=decoder or autoencoder,
        other_decoder=decoder is not None,
        settings=sampler,
        dataset=data,
        class_names=None if class_names is None else read_text(class_names).splitlines(),
        metrics=list(metrics_files) or None,
        license_name=license_name,
    )


COMMANDS = {"import": import_command, "export": export}
