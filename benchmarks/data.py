"""Reading latents: the store against the ancestors' one-file-per-sample, and against a bare memory map."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.timing import Result, interleaved
from selftrans.config import Training
from selftrans.data.store import LatentStore, StoreWriter
from selftrans.training.batches import BatchSource

COUNT, BATCH, SHAPE = 20_000, 256, (2, 4, 32, 32)


def photograph_like(rng: np.random.Generator) -> Image.Image:
    """Smooth shapes and a little noise: bare noise would not compress, and a PNG of it decodes too easily."""
    shapes = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(shapes, np.int16) + rng.integers(-4, 5, (256, 256, 3), dtype=np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def latent_store(directory: Path, rng: np.random.Generator) -> tuple[LatentStore, NDArray[np.float16]]:
    """A store of ImageNet's shape, (2, 4, 32, 32) in half precision, and what is in it."""
    writer = StoreWriter(directory, {"benchmark": 1}, COUNT, shard_size=COUNT // 5)
    moments = rng.standard_normal((COUNT, *SHAPE), dtype=np.float32).astype(np.float16)
    for number, start, stop in writer.ranges():
        writer.write(number, moments[start:stop])
    writer.finish(
        np.zeros(COUNT, np.int64), class_names=("0",), latent_shape=SHAPE[1:], image_size=256, dtype="float16",
        scale=0.18215, shift=0.0, scale_origin="autoencoder",
    )  # fmt: skip
    return LatentStore(directory / "manifest.json"), moments


def batches() -> Iterator[Result]:
    """Images per second that trainings get: latents, both noises, t, labels and what follows from them."""
    steps = 40
    with TemporaryDirectory() as name:
        store, _ = latent_store(Path(name), np.random.default_rng(0))
        source = BatchSource(store, Training(checkpoints=(100,), batch_size=BATCH), seed=0)
        for title, asked, size, threads in (
            ("training_data", 10_000 // 8, BATCH // 8, 1),
            ("training_data_2_threads", 10_000, BATCH, 2),
        ):
            torch.set_num_threads(threads)
            stream = source.stream(range(steps), [range(size)], torch.device("cpu"))
            next(stream)
            started = time.perf_counter()
            for step in range(1, steps):
                next(stream)
                time.sleep(max(0.0, started + step * size / asked - time.perf_counter()))  # the training's own work
            rate = (steps - 1) * size / (time.perf_counter() - started)
            torch.set_num_threads(1)
            whose = "one of 8 processes" if threads == 1 else "the only process"
            yield Result(
                name=title, ours=rate, baseline=asked, ratio=rate / asked, unit="images/s",
                note=f"what {whose} of a training at 10,000 images/s gets; baseline: what it takes",
            )  # fmt: skip


def latent_loading() -> Iterator[Result]:
    """Shuffled samples per second at ImageNet's latent shape."""
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as name:
        directory = Path(name)
        store, moments = latent_store(directory, rng)
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
