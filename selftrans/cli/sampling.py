"""``selftrans sample`` and ``selftrans generate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from selftrans.cli.options import (
    FILE,
    Number,
    OneOf,
    WholeNumber,
    autoencoder_option,
    batch_size_option,
    check_one_decoder,
    check_output,
    decoder_option,
    device_option,
    events_option,
    output_option,
    parse_json,
    process_options,
    workers_of,
)
from selftrans.config import GuidanceConfig, SamplerConfig, restored
from selftrans.runs import DataRecord, find_run, located
from selftrans.runtime.devices import DeviceName
from selftrans.runtime.errors import UserError
from selftrans.runtime.workers import Shard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MAX_COLUMNS = 1000
SAMPLERS = get_args(SamplerConfig.model_fields["sampler"].annotation)


@click.command(
    epilog="""Example: four samples of each of two classes.

    \b
      selftrans sample results/digits/runs/sit/seed0/checkpoints/3000/ema.safetensors \\
          --classes 3,8 --scale 1.5 --output samples.png"""
)
@click.argument("weights", type=FILE)
@click.option("--classes", help="numbers or names, for instance 207,otter")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="a caption (may be repeated), for a model that takes captions",
)
@click.option("--text-encoder", help="where it lies  [default: where the training found it]")
@output_option("the picture (.png, .jpg, .webp)")
@autoencoder_option
@decoder_option
@click.option(
    "--columns",
    type=WholeNumber(1),
    default=4,
    show_default=True,
    help="samples of each class or prompt",
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
    classes: str | None,
    prompts: tuple[str, ...],
    text_encoder: str | None,
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
    """Draw a row of samples of WEIGHTS for each class or prompt; a column has the same noise.

    The autoencoder is found where WEIGHTS is a checkpoint among a project's results.
    """
    if output.suffix.lower() not in PICTURES:
        raise UserError(f"--output: {output} is not a picture's name (allowed: .png, .jpg, .webp)")
    if (classes is None) != bool(prompts):
        raise UserError("--classes: either classes or prompts are needed (allowed: one of the two)")
    if text_encoder is not None and classes is not None:
        raise UserError("--text-encoder: is given beside --classes (allowed: beside --prompt)")
    if columns > MAX_COLUMNS:
        raise UserError(f"--columns: {columns} is too many (allowed: 1 to {MAX_COLUMNS})")
    check_output(output, weights)
    decodes, is_other = _decoder(weights, autoencoder, decoder)
    settings = SamplerConfig(
        sampler=sampler,
        num_steps=steps,
        num_samples=max(2, columns),
        guidance=GuidanceConfig(scale=scale, high=high),
        seed=seed,
    )

    from selftrans.runtime.devices import claim_device, granted_gpus
    from selftrans.sampling.conditions import encoded_prompts
    from selftrans.sampling.generate import ImageSampler
    from selftrans.sampling.sample_grid import write_sample_grid

    loaded = ImageSampler(
        weights, decodes, claim_device(granted_gpus(device)), other_decoder=is_other
    )
    if classes is None:
        conditions = encoded_prompts(loaded.metadata, prompts, text_encoder)
        names: Sequence[str] = [" ".join(prompt.split()) for prompt in prompts]
    else:
        names, conditions = _classes(weights, loaded.conditions.num_classes, classes)
    write_sample_grid(loaded, settings, conditions, names, columns, output)
    print(f"{output}: {', '.join(names)}")


def _classes(
    weights: Path, num_classes: int, chosen: str
) -> tuple[Sequence[str], NDArray[np.int64]]:
    """Names and numbers of classes as they are written on the command line."""
    import numpy as np

    from selftrans.data.class_names import named_classes, parse_classes
    from selftrans.sampling.classes import names_of_classes

    found = _data_of(weights)
    numbers = [str(label) for label in range(num_classes)]
    names = named_classes(numbers, (found and names_of_classes(*found)) or None)
    labels = parse_classes(chosen, names)
    return [names[label] for label in labels], np.array(labels, np.int64)


def _decoder(weights: Path, autoencoder: str | None, decoder: str | None) -> tuple[str, bool]:
    """What decodes, and whether another autoencoder made the latents."""
    check_one_decoder(autoencoder, decoder)
    if given := decoder or autoencoder:
        return given, decoder is not None
    if (found := _data_of(weights)) is None:
        raise UserError(
            f"--autoencoder: is needed, {weights} is not part of an experiment's results"
        )
    project, data = found
    return located(project, data.autoencoder), data.other_decoder


def _data_of(weights: Path) -> tuple[Path, DataRecord] | None:
    """The data of the results that a weight file is part of, and their project's folder."""
    found = find_run(weights)
    return None if found is None or found.runs.data is None else (found.project, found.runs.data)


@click.command(
    epilog="""Example:

    \b
      selftrans generate results/digits/runs/sit/seed0/checkpoints/3000/ema.safetensors \\
          --settings '{"sampler": "euler", "num_steps": 25, "num_samples": 1000}' \\
          --output samples.npz"""
)
@click.argument("weights", type=FILE)
@autoencoder_option
@decoder_option
@click.option(
    "--prompts",
    type=FILE,
    help="manifest of the caption store whose captions samples are made of",
)
@click.option("--settings", required=True, help="an entry of evaluation.samplers, as JSON")
@output_option("the .npz; its first images and a .json go beside it")
@batch_size_option(256)
@events_option("a picture of the first images")
@process_options
def generate(
    weights: Path,
    autoencoder: str | None,
    decoder: str | None,
    prompts: Path | None,
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
    decodes, is_other = _decoder(weights, autoencoder, decoder)

    from selftrans.sampling import generate as generation

    generation.generate(
        weights,
        decodes,
        sampler,
        output,
        other_decoder=is_other,
        prompts=prompts,
        batch_size=batch_size,
        events=events,
        workers=workers_of(device, processes, worker),
    )


COMMANDS = {"sample": sample, "generate": generate}
