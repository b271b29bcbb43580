"""``selftrans sample`` and ``selftrans generate``."""

from pathlib import Path
from typing import get_args

import click

from selftrans.cli.options import (
    FILE,
    Number,
    OneOf,
    WholeNumber,
    batch_size_option,
    check_output,
    device_option,
    events_option,
    output_option,
    parse_json,
    process_options,
)
from selftrans.cli.project import find_project, workflow_commands
from selftrans.config import GuidanceConfig, SamplerConfig, restored
from selftrans.runtime.devices import DeviceName
from selftrans.runtime.errors import UserError
from selftrans.runtime.workers import Shard, Workers

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MAX_COLUMNS = 1000
SAMPLERS = get_args(SamplerConfig.model_fields["sampler"].annotation)

autoencoder_option = click.option(
    "--autoencoder", help="directory or hub name of the autoencoder that made the latents"
)
decoder_option = click.option(
    "--decoder", help="that of another autoencoder, which decodes the same latents"
)


@click.command(
    epilog="""Example: four samples of each of two classes.

    \b
      selftrans sample results/digits/runs/sit/seed0/checkpoints/3000/ema.safetensors \\
          --classes 3,8 --scale 1.5 --output samples.png"""
)
@click.argument("weights", type=FILE)
@click.option("--classes", required=True, help="numbers of classes, for instance 207,360")
@output_option("the picture (.png, .jpg, .webp)")
@autoencoder_option
@decoder_option
@click.option(
    "--columns", type=WholeNumber(1), default=4, show_default=True, help="samples of each class"
)
@click.option("--seed", type=WholeNumber(0), default=0, show_default=True, help="seed of the noise")
@click.option("--sampler", type=OneOf(SAMPLERS), default="euler", show_default=True)
@click.option(
    "--steps", type=WholeNumber(2), default=50, show_default=True, help="from noise to data"
)
@click.option(
    "--scale",
    type=Number(0, 1e4),
    default=1.0,
    show_default=True,
    help="scale of classifier-free guidance; 1 is none",
)
@click.option(
    "--high", type=Number(0, 1), default=1.0, show_default=True, help="last t that is guided"
)
@device_option
def sample(
    weights: Path,
    classes: str,
    output: Path,
    autoencoder: str | None,
    decoder: str | None,
    columns: int,
    seed: int,
    sampler: str,
    steps: int,
    scale: float,
    high: float,
    device: DeviceName,
) -> None:
    """Draw a row of samples of WEIGHTS for each class; a column has the same noise.

    The autoencoder is found where WEIGHTS is a checkpoint among a project's results.
    """
    if output.suffix.lower() not in PICTURES:
        raise UserError(f"--output: {output} is not a picture's name (allowed: .png, .jpg, .webp)")
    if columns > MAX_COLUMNS:
        raise UserError(f"--columns: {columns} is too many (allowed: 1 to {MAX_COLUMNS})")
    check_output(output, weights)
    autoencoder, decoder = _decoders(weights, autoencoder, decoder)
    settings = SamplerConfig(
        sampler=sampler,
        num_steps=steps,
        num_samples=columns,
        guidance=GuidanceConfig(scale=scale, high=high),
        seed=seed,
    )

    from selftrans.runtime.devices import claim_device, granted_gpus
    from selftrans.sampling.generate import ImageSampler
    from selftrans.sampling.sample_grid import parse_classes, write_sample_grid

    loaded = ImageSampler(
        weights,
        decoder or str(autoencoder),
        claim_device(granted_gpus(device)),
        other_decoder=decoder is not None,
    )
    labels = parse_classes(classes, loaded.model.shape.num_classes)
    names = write_sample_grid(loaded, settings, labels, output)
    print(f"{output}: {', '.join(names)}")


def _decoders(
    weights: Path, autoencoder: str | None, decoder: str | None
) -> tuple[str | None, str | None]:
    """The autoencoder and the other decoder, one of which is None."""
    if autoencoder and decoder:
        raise UserError("--decoder: is given beside --autoencoder (allowed: one of them)")
    if autoencoder or decoder:
        return autoencoder, decoder
    project = find_project(weights.absolute().parent)
    if project is None:
        raise UserError(
            f"--autoencoder: is needed, {weights} is not part of an experiment's results"
        )
    return workflow_commands(project).autoencoder_of(weights)


@click.command()
@click.argument("weights", type=FILE)
@autoencoder_option
@decoder_option
@click.option("--settings", required=True, help="an entry of evaluation.samplers, as JSON")
@output_option("the .npz; its first images and a .json go beside it")
@batch_size_option(256)
@events_option("a picture of the first images")
@process_options
def generate(
    weights: Path,
    autoencoder: str | None,
    decoder: str | None,
    settings: str,
    output: Path,
    batch_size: int,
    events: Path | None,
    device: DeviceName,
    processes: int,
    worker: Shard | None,
) -> None:
    """Sample the images of a checkpoint's WEIGHTS for evaluation; resumes."""
    check_output(output, weights, suffix=".npz")
    sampler = restored(SamplerConfig, parse_json(settings, "--settings"), "--settings")
    autoencoder, decoder = _decoders(weights, autoencoder, decoder)

    from selftrans.sampling import generate as generation

    generation.generate(
        weights,
        decoder or str(autoencoder),
        sampler,
        output,
        other_decoder=decoder is not None,
        batch_size=batch_size,
        events=events,
        workers=Workers(device, processes, worker),
    )


COMMANDS = {"sample": sample, "generate": generate}
