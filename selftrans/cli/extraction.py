"""``selftrans extract latents``, ``selftrans extract features``, ``selftrans extract captions``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from selftrans.cli.options import (
    FILE,
    data_argument,
    events_option,
    output_option,
    process_options,
    workers_of,
)
from selftrans.runtime.devices import DeviceName
from selftrans.runtime.lock import DirectoryLock
from selftrans.runtime.workers import Shard, run_sharded

if TYPE_CHECKING:
    import torch


@click.group()
def extract() -> None:
    """Encode images, or their captions, into a store that trainings read."""


@extract.command(
    epilog="""Example:

    \b
      selftrans extract latents digits --autoencoder results/data/digits/autoencoder \\
          --output latents"""
)
@data_argument
@click.option("--autoencoder", required=True, help="directory or hub name of the autoencoder")
@output_option("directory of the latent store")
@events_option("a picture of reconstructions")
@process_options
def latents(
    data: str,
    autoencoder: str,
    output: Path,
    events: Path | None,
    device: DeviceName,
    processes: int,
    worker: Shard | None,
) -> None:
    """Encode the images of a DATA file into latents; resumes at the shard."""
    from selftrans.config import load_dataset
    from selftrans.extraction.latents import LatentExtraction

    run_sharded(
        workers_of(device, processes, worker),
        lambda claimed: LatentExtraction(load_dataset(data), autoencoder, output, claimed, events),
        DirectoryLock(output, wait=True),
    )


@extract.command(
    epilog="""Example:

    \b
      selftrans extract features digits \\
          --encoder results/data/digits/encoders/stand-in.safetensors --output features"""
)
@data_argument
@click.option("--encoder", type=FILE, required=True, help="the encoder's file")
@output_option("directory of the feature store")
@process_options
def features(
    data: str,
    encoder: Path,
    output: Path,
    device: DeviceName,
    processes: int,
    worker: Shard | None,
) -> None:
    """Encode the images of a DATA file into an encoder's patch tokens; resumes at the shard."""
    from selftrans.config import load_dataset
    from selftrans.extraction.features import FeatureExtraction

    run_sharded(
        workers_of(device, processes, worker),
        lambda claimed: FeatureExtraction(load_dataset(data), encoder, output, claimed),
        DirectoryLock(output, wait=True),
    )


@extract.command(
    epilog="""Example:

    \b
      selftrans extract captions experiments/data/scenes.yaml --output captions"""
)
@data_argument
@output_option("directory of the caption store")
@process_options
def captions(
    data: str, output: Path, device: DeviceName, processes: int, worker: Shard | None
) -> None:
    """Encode the captions of a DATA file's images; resumes at the shard."""
    from selftrans.config import load_dataset
    from selftrans.data.sources import left_out
    from selftrans.extraction.captions import CaptionExtraction

    def extraction(claimed: torch.device) -> CaptionExtraction:
        settings = load_dataset(data)
        return CaptionExtraction(settings, output, claimed, left_out(settings, Path(data)))

    run_sharded(workers_of(device, processes, worker), extraction, DirectoryLock(output, wait=True))


COMMANDS = {"extract": extract}
