"""Extraction: images -> encoder -> feature store. ``python -m selftrans.data.features --help``."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch

from selftrans.config import Data, load_data
from selftrans.data.sources import open_source
from selftrans.data.store import FeatureManifest, StoreWriter
from selftrans.models.encoder import load_encoder
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.logs import LOG, Progress, set_up_logging

ENCODE_BATCH = 64  # fixed, so that the stored bytes do not depend on how the work is cut
BYTES_PER_NUMBER = 2


def feature_bytes(count: int, grid_size: int, width: int) -> int:
    """Size of a store: ImageNet's 1,281,167 images at ViT-B, 16x16 tokens of 768, are 504 GB."""
    return count * grid_size**2 * width * BYTES_PER_NUMBER


def extract_features(data: Data, encoder_path: Path, directory: Path, device: torch.device) -> FeatureManifest:
    """Encode every image of ``data`` into the store in ``directory``; goes on at the shard where it stopped.

    Raises:
        UserError: the encoder's file is none, or the disk has no room for the features.
    """
    source, encoder = open_source(data), load_encoder(encoder_path, device)
    origin = {"data": data.model_dump(mode="json", include={"source", "image_size"}), "encoder_digest": encoder.digest}
    writer = StoreWriter(directory, origin, len(source.labels), data.latents.shard_size, content="features")
    finished = sum(stop - start for number, start, stop in writer.ranges() if writer.has(number))
    needed = feature_bytes(writer.count - finished, encoder.grid_size, encoder.width)
    directory.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(directory).free):
        raise UserError(
            f"{directory}: the features need {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free;"
            " `features: images` computes them at every step instead"
        )
    LOG.info("%d images, %.3g GB of features to write", writer.count, needed / 1e9)
    with Progress(writer.count, "encoding", "image", initial=finished) as bar:
        for number, start, stop in writer.ranges():
            if writer.has(number):
                continue
            shape = (encoder.grid_size**2, encoder.width)
            with writer.shard(number, stop - start, shape, np.dtype(np.float16)) as rows:
                for first in range(start, stop, ENCODE_BATCH):
                    images = torch.from_numpy(source.read(range(first, min(first + ENCODE_BATCH, stop))))
                    rows[first - start : first - start + len(images)] = encoder(images).half().cpu().numpy()
                    bar.update(len(images))
    return writer.write_manifest(
        FeatureManifest,
        encoder=encoder.name,
        encoder_digest=encoder.digest,
        stand_in=encoder.stand_in,
        grid_size=encoder.grid_size,
        width=encoder.width,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.data.features", description="Encode images into an encoder's patch tokens."
    )
    parser.add_argument("data", help="data file (YAML)")
    parser.add_argument("--encoder", type=Path, required=True, help="the encoder's file")
    parser.add_argument("--output", type=Path, required=True, help="directory of the feature store")
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    extract_features(load_data(arguments.data), arguments.encoder, arguments.output, claim_device(arguments.gpus))


if __name__ == "__main__":
    run_main(main)
