"""Extraction: images -> autoencoder -> latent store. ``python -m selftrans.data.latents --help``."""

import argparse
from pathlib import Path

import numpy as np
import torch

from selftrans.config import Data, load_data
from selftrans.data.sources import open_source
from selftrans.data.store import Manifest, StoreWriter
from selftrans.models.autoencoder import encode_moments, load_autoencoder
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import run_main
from selftrans.runtime.logs import LOG, Progress, set_up_logging
from selftrans.runtime.tensors import digest_of

ENCODE_BATCH = 64  # fixed, so that the stored bytes do not depend on how the work is cut


def extract(data: Data, autoencoder_path: str, directory: Path, device: torch.device) -> Manifest:
    """Encode every image of ``data`` into the store in ``directory``; goes on at the shard where it stopped.

    The scale is the autoencoder's own ``scaling_factor``; where it has none, one over the standard deviation of
    posterior samples, from the moments themselves: Var = E[mean^2 + std^2] - E[mean]^2.
    """
    source = open_source(data)
    autoencoder = load_autoencoder(autoencoder_path, device)
    origin = {
        "data": data.model_dump(mode="json", include={"source", "image_size", "autoencoder", "latents"}),
        "autoencoder_digest": digest_of(autoencoder.state_dict()),
    }
    writer = StoreWriter(directory, origin, len(source.labels), data.latents.shard_size)
    sums = np.zeros(3)  # of 1, mean, mean^2 + std^2
    finished = sum(stop - start for number, start, stop in writer.ranges() if writer.has(number))
    with Progress(writer.count, "encoding", "image", initial=finished) as bar:
        for number, start, stop in writer.ranges():
            if not writer.has(number):
                encoded = []
                for first in range(start, stop, ENCODE_BATCH):
                    images = torch.from_numpy(source.read(range(first, min(first + ENCODE_BATCH, stop))))
                    encoded.append(encode_moments(autoencoder, images.to(device)).cpu().numpy())
                    bar.update(len(images))
                writer.write(number, np.concatenate(encoded).astype(data.latents.dtype))
            for moments in np.array_split(writer.read(number), max(1, (stop - start) // 1024)):
                mean, std = np.moveaxis(moments.astype(np.float64), 1, 0)
                sums += mean.size, mean.sum(), np.square(mean).sum() + np.square(std).sum()
    measured = 1 / np.sqrt(sums[2] / sums[0] - (sums[1] / sums[0]) ** 2)
    own = autoencoder.config["scaling_factor"]
    manifest = writer.finish(
        source.labels,
        class_names=source.class_names,
        latent_shape=writer.read(0).shape[2:],
        image_size=data.image_size,
        dtype=data.latents.dtype,
        scale=float(measured if own is None else own),
        shift=float(autoencoder.config.get("shift_factor") or 0.0),
        scale_origin="measured" if own is None else "autoencoder",
    )
    LOG.info("%d images, latents %s, scale %.5f", manifest.count, manifest.latent_shape, manifest.scale)
    return manifest


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m selftrans.data.latents", description="Encode images into latents.")
    parser.add_argument("data", help="data file (YAML)")
    parser.add_argument("--autoencoder", required=True, help="directory or hub name of the AutoencoderKL")
    parser.add_argument("--output", type=Path, required=True, help="directory of the latent store")
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    extract(load_data(arguments.data), arguments.autoencoder, arguments.output, claim_device(arguments.gpus))


if __name__ == "__main__":
    run_main(main)
