"""Reading latents: the store against the ancestors' one-file-per-sample, and against a bare memory map."""

import io
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.timing import Result, interleaved
from selftrans.data.store import LatentStore, StoreWriter

COUNT, BATCH, SHAPE = 20_000, 256, (2, 4, 32, 32)


def photograph_like(rng: np.random.Generator) -> Image.Image:
    """Smooth shapes and a little noise: bare noise would not compress, and a PNG of it decodes too easily."""
    shapes = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(shapes, np.int16) + rng.integers(-4, 5, (256, 256, 3), dtype=np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def latent_loading() -> Iterator[Result]:
    """Shuffled samples per second at ImageNet's latent shape, (2, 4, 32, 32) in half precision."""
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as name:
        directory = Path(name)
        writer = StoreWriter(directory, {"benchmark": 1}, COUNT, shard_size=COUNT // 5)
        moments = rng.standard_normal((COUNT, *SHAPE), dtype=np.float32).astype(np.float16)
        for number, start, stop in writer.ranges():
            writer.write(number, moments[start:stop])
        writer.finish(
            np.zeros(COUNT, np.int64), class_names=("0",), latent_shape=SHAPE[1:], image_size=256, dtype="float16",
            scale=0.18215, shift=0.0, scale_origin="autoencoder",
        )  # fmt: skip
        store = LatentStore(directory / "manifest.json")
        np.save(directory / "bare.npy", moments)
        bare = np.load(directory / "bare.npy", mmap_mode="r")
        files = [directory / f"{i}.npy" for i in range(BATCH)]
        image = photograph_like(rng)
        png = io.BytesIO()
        image.save(png, "png")
        for path in files:
            np.save(path, moments[0].astype(np.float32))
            path.with_suffix(".png").write_bytes(png.getvalue())
        order = rng.permutation(COUNT)[: 8 * BATCH].reshape(8, BATCH)

        def from_files() -> None:
            for path in files:
                np.load(path)
                np.asarray(Image.open(path.with_suffix(".png")))

        own, map_, one = interleaved(
            lambda: [store.moments(indices) for indices in order],
            lambda: [bare[indices] for indices in order],
            from_files,
        )
        ours, mapped, ancestor = 8 * BATCH / own, 8 * BATCH / map_, BATCH / one
        note = "shuffled samples of (2, 4, 32, 32), float16"
        yield Result(
            name="latent_loading", ours=ours, baseline=ancestor, ratio=ours / ancestor, unit="samples/s",
            note=f"{note}; baseline: one .npy and one 256-pixel PNG per sample",
        )  # fmt: skip
        yield Result(
            name="latent_loading_share", ours=ours, baseline=mapped, ratio=ours / mapped, unit="samples/s",
            note="baseline: a bare memory map",
        )  # fmt: skip
        noise = rng.standard_normal((BATCH, *SHAPE[1:]), dtype=np.float32)
        drawn, read = interleaved(lambda: store.latents(order[0], noise), lambda: store.moments(order[0]))
        yield Result(
            name="posterior_sample", ours=BATCH / drawn, baseline=BATCH / read, ratio=read / drawn, unit="samples/s",
            note="read, sampled and scaled against read; noise given",
        )  # fmt: skip
