"""``selftrans train``, ``freeze``, and what trains the small networks of a data set."""

import shlex
import sys
from pathlib import Path

import click

from selftrans.cli.options import (
    FILE,
    WholeNumber,
    check_output,
    data_argument,
    device_option,
    input_options,
    output_option,
    processes_option,
)
from selftrans.runtime.devices import DeviceName
from selftrans.training.input_paths import InputPaths


@click.command(
    epilog="""Example: a segment of the embedded experiment, as the workflow trains it.

    \b
      selftrans train results/digits/experiment.yaml --run sit --seed 0 --until 600 \\
          --latents results/data/digits/latents/manifest.json \\
          --directory results/digits/runs/sit/seed0"""
)
@click.argument("experiment")
@click.option("--run", required=True, help="name of the run")
@click.option("--seed", type=WholeNumber(0), required=True, help="seed of the run")
@click.option(
    "--until", type=WholeNumber(1), required=True, help="checkpoint to train up to, in steps"
)
@click.option(
    "--inserted",
    is_flag=True,
    help="the checkpoint is one of an experiment that extends this one",
)
@click.option("--latents", type=FILE, required=True, help="manifest of the latent store")
@input_options
@click.option("--directory", type=FILE, required=True, help="directory of the run")
@click.option(
    "--after",
    type=WholeNumber(0),
    default=0,
    help="checkpoint that this one was scheduled behind (recorded)",
)
@device_option
@processes_option("a batch")
@click.option(
    "--nodes",
    type=WholeNumber(1),
    default=1,
    show_default=True,
    help="nodes that the processes are shared among",
)
@click.option(
    "--attempt",
    type=WholeNumber(1),
    default=1,
    help="number of this attempt; a later one stops at once after a failure that stays",
)
def train(
    experiment: str,
    run: str,
    seed: int,
    until: int,
    inserted: bool,
    latents: Path,
    inputs: InputPaths,
    directory: Path,
    after: int,
    device: DeviceName,
    processes: int,
    nodes: int,
    attempt: int,
) -> None:
    """Train a run of EXPERIMENT up to one of its checkpoints, or resume it."""
    from selftrans.training import segments

    segments.train(
        experiment,
        run,
        seed,
        until,
        latents=latents,
        directory=directory,
        inputs=inputs,
        after=after,
        inserted=inserted,
        device=device,
        processes=processes,
        nodes=nodes,
        attempt=attempt,
        command=shlex.join(["selftrans", *sys.argv[1:]]),
    )


@click.command(
    epilog="""Example:

    \b
      selftrans freeze results/digits/runs/vae-align/seed0/checkpoints/3000/ema.safetensors \\
          --depth 4 --output teacher.safetensors"""
)
@click.argument("weights", type=FILE)
@click.option(
    "--depth", type=WholeNumber(1), required=True, help="last block that is kept, counted from 1"
)
@output_option("the frozen teacher (.safetensors)")
def freeze(weights: Path, depth: int, output: Path) -> None:
    """Freeze the first blocks of a checkpoint's weight file WEIGHTS as a teacher."""
    check_output(output, weights, suffix=".safetensors")

    from selftrans.training.freeze import freeze_teacher

    freeze_teacher(weights, depth, output)


@click.command(
    epilog="""Example:

    \b
      selftrans autoencoder digits --output autoencoder"""
)
@data_argument
@output_option("directory of the autoencoder")
@device_option
def autoencoder(data: str, output: Path, device: DeviceName) -> None:
    """Train the embedded autoencoder of a DATA file."""
    from selftrans.config import load_dataset
    from selftrans.models.autoencoder import save_autoencoder
    from selftrans.runtime.devices import claim_device, granted_gpus
    from selftrans.training.auxiliary.autoencoder import train_autoencoder

    settings = load_dataset(data)
    save_autoencoder(train_autoencoder(settings, claim_device(granted_gpus(device))), output)


@click.command(
    epilog="""Example:

    \b
      selftrans classifier digits --output classifier.safetensors"""
)
@data_argument
@output_option("the weight file")
@device_option
def classifier(data: str, output: Path, device: DeviceName) -> None:
    """Train the embedded feature extractor of a DATA file."""
    from selftrans.config import load_dataset
    from selftrans.runtime.devices import claim_device, granted_gpus
    from selftrans.training.auxiliary.classifier import make_classifier

    make_classifier(load_dataset(data), output, claim_device(granted_gpus(device)))


@click.command(
    epilog="""Example:

    \b
      selftrans reader scenes --output reader.safetensors"""
)
@data_argument
@output_option("the weight file")
@device_option
def reader(data: str, output: Path, device: DeviceName) -> None:
    """Train the network that reads the drawn scenes of a DATA file."""
    from selftrans.config import load_dataset
    from selftrans.runtime.devices import claim_device, granted_gpus
    from selftrans.training.auxiliary.reader import make_reader

    make_reader(load_dataset(data), output, claim_device(granted_gpus(device)))


@click.command(
    epilog="""Example:

    \b
      selftrans encoder digits --name stand-in --output stand-in.safetensors"""
)
@data_argument
@click.option("--name", required=True, help="which of its encoders")
@output_option("the encoder's file")
@device_option
def encoder(data: str, name: str, output: Path, device: DeviceName) -> None:
    """Train an encoder of a DATA file, or fetch its published weights."""
    from selftrans.config import load_dataset
    from selftrans.runtime.devices import claim_device, granted_gpus
    from selftrans.training.auxiliary.encoder import make_encoder

    make_encoder(load_dataset(data), name, output, claim_device(granted_gpus(device)))


COMMANDS = {
    "train": train,
    "freeze": freeze,
    "autoencoder": autoencoder,
    "classifier": classifier,
    "reader": reader,
    "encoder": encoder,
}
