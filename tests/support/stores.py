"""A latent store of random moments."""

from pathlib import Path

import numpy as np

SCALE, SHIFT = 0.5, 0.1
"""Of the store's latents, and of the autoencoder that decodes such ones."""


def write_store(directory: Path, count: int = 200, seed: int = 0, classes: int = 10) -> Path:
    """A latent store of random moments in three shards; returns the manifest's path."""
    from selftrans.data.writer import StoreWriter

    rng = np.random.default_rng(seed)
    writer = StoreWriter(
        directory, {"seed": seed, "count": count}, count, shard_size=count // 3 + 1
    )
    for number, start, stop in writer.ranges():
        moments = rng.standard_normal((stop - start, 2, 4, 8, 8))
        moments[:, 1] = np.abs(moments[:, 1]) * 0.1
        writer.write(number, moments.astype(np.float16))
    writer.finish(
        rng.integers(0, classes, count),
        class_names=tuple("0123456789"[:classes]),
        latent_shape=(4, 8, 8),
        image_size=32,
        dtype="float16",
        scale=SCALE,
        shift=SHIFT,
        scale_origin="measured",
    )
    return directory / "manifest.json"
