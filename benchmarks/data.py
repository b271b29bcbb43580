"""Images and latents: decoding against plain PIL, the store against other ways of reading.

The store is compared with one file per sample and with a bare memory map.
"""

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.timing import Result, interleaved
from selftrans.config import FolderSource, TrainingConfig
from selftrans.data.manifests import Manifest, ShardRecord
from selftrans.data.sources.base import adm_crop
from selftrans.data.sources.folder import open_folder
from selftrans.data.store import LatentStore
from selftrans.data.writer import StoreWriter
from selftrans.runtime.arrays import write_npy_header
from selftrans.runtime.files import sha256_of, write_json
from selftrans.training.batches import BatchSource

COUNT, BATCH, SHAPE = 20_000, 256, (2, 4, 32, 32)
IMAGENET = 1_281_167


def photograph_like(rng: np.random.Generator) -> Image.Image:
    """Smooth shapes and a little noise.

    Pure noise would not compress, and a PNG of it decodes too easily.
    """
    shapes = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(shapes, np.int16) + rng.integers(-4, 5, (256, 256, 3), dtype=np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def latent_store(
    directory: Path, rng: np.random.Generator
) -> tuple[LatentStore, NDArray[np.float16]]:
    """A store of ImageNet's shape, (2, 4, 32, 32) in half precision, and what is in it."""
    writer = StoreWriter(directory, {"benchmark": 1}, COUNT, shard_size=COUNT // 5)
    moments = rng.standard_normal((COUNT, *SHAPE), dtype=np.float32).astype(np.float16)
    for number, start, stop in writer.ranges():
        writer.write(number, moments[start:stop])
    writer.finish(
        np.zeros(COUNT, np.int64), class_names=("0",), latent_shape=SHAPE[1:], image_size=256,
        dtype="float16", scale=0.18215, shift=0.0, scale_origin="autoencoder",
    )  # fmt: skip
    return LatentStore(directory / "manifest.json"), moments


def sparse_store(directory: Path) -> Path:
    """A latent store of ImageNet's size, 21 GB of holes; returns its manifest."""
    rng, shard_size = np.random.default_rng(0), 16384
    directory.mkdir(exist_ok=True)
    shards, total = [], np.dtype(np.float16).itemsize * int(np.prod(SHAPE))
    for number, start in enumerate(range(0, IMAGENET, shard_size)):
        count = min(shard_size, IMAGENET - start)
        path = directory / f"moments-{number:05}.npy"
        with path.open("wb") as file:
            write_npy_header(file, np.dtype(np.float16), (count, *SHAPE))
            file.truncate(file.tell() + count * total)
        shards.append(
            ShardRecord(file=path.name, count=count, bytes=path.stat().st_size, sha256="0" * 64)
        )
    np.save(directory / "labels.npy", rng.integers(0, 1000, IMAGENET))
    manifest = Manifest(
        count=IMAGENET, class_names=tuple(map(str, range(1000))), latent_shape=SHAPE[1:],
        image_size=256, dtype="float16", scale=0.18215, shift=0.0, scale_origin="autoencoder",
        labels_sha256=sha256_of(directory / "labels.npy"), shards=tuple(shards), origin={},
    )  # fmt: skip
    write_json(directory / "manifest.json", manifest.model_dump())
    return directory / "manifest.json"


def imagenet_store() -> Iterator[Result]:
    """A store of ImageNet's size: how long it takes to open, and what a training gets of it."""
    steps = 40
    with TemporaryDirectory() as name:
        manifest = sparse_store(Path(name))
        started = time.perf_counter()
        store = LatentStore(manifest)
        opened = time.perf_counter() - started
        yield Result(
            name="imagenet_store_opening", ours=opened, baseline=1.0, ratio=1.0 / opened, unit="s",
            note="1,281,167 rows in 79 shards (sparse files); baseline: one second",
        )  # fmt: skip
        source = BatchSource(store, TrainingConfig(checkpoints=(100,), batch_size=BATCH), seed=0)
        stream = source.stream(range(steps), [range(BATCH // 8)], torch.device("cpu"))
        next(stream)
        started = time.perf_counter()
        for _ in range(1, steps):
            next(stream)
        rate, requested = (steps - 1) * BATCH // 8 / (time.perf_counter() - started), 10_000 / 8
        yield Result(
            name="imagenet_store_training", ours=rate, baseline=requested, ratio=rate / requested,
            unit="images/s",
            note="sampled by one of 8 processes, one thread, shuffled over 21 GB; "
            "baseline: an eighth of 10,000 images/s",
        )  # fmt: skip


def decoding() -> Iterator[Result]:
    """JPEGs to squares of 256 pixels: our source against the plain way.

    Also what JPEG's draft mode would change.
    """
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as name:
        folder = Path(name) / "n0"
        folder.mkdir()
        sizes = [
            (500, 375),
            (375, 500),
            (500, 333),
            (640, 480),
            (400, 300),
            (1200, 900),
            (2000, 1500),
        ]
        for number, size in enumerate(sizes * 6):
            photograph_like(rng).resize(size, Image.Resampling.BICUBIC).save(
                folder / f"{number}.jpg", quality=90
            )
        paths = sorted(folder.iterdir())
        settings = FolderSource(kind="folder", path=name)
        source = open_folder(settings, 256, ())

        def plainly(draft: bool = False) -> list[NDArray[np.uint8]]:
            images = []
            for path in paths:
                image = Image.open(path)
                halvings = max(0, (min(image.size) // 256).bit_length() - 1)
                if draft:
                    image.draft("RGB", (image.width >> halvings, image.height >> halvings))
                images.append(adm_crop(image.convert("RGB"), 256))
            return images

        places = range(len(paths))
        own, plain, drafted = interleaved(
            lambda: source.read(places), plainly, lambda: plainly(draft=True)
        )
        rates = [len(paths) / seconds for seconds in (own, plain, drafted)]
        yield Result(
            name="decode_and_crop", ours=rates[0], baseline=rates[1], ratio=rates[0] / rates[1],
            unit="images/s", sides=(own, plain),
            note="one core, sizes as in ImageNet; baseline: PIL in a loop, the same crop",
        )  # fmt: skip
        error = np.abs(np.stack(plainly()).astype(int) - np.stack(plainly(draft=True)))
        yield Result(
            name="jpeg_draft", ours=rates[2], baseline=rates[1], ratio=rates[2] / rates[1],
            unit="images/s", sides=(drafted, plain),
            note=f"not used: it changes {(error > 0).mean():.1%} of the values, "
            f"by up to {error.max()} of 255",
        )  # fmt: skip
        threads = 2
        with ThreadPoolExecutor(threads) as pool:
            shared, alone = interleaved(
                lambda: list(pool.map(lambda place: source.read(range(place, place + 1)), places)),
                lambda: source.read(places),
            )
        yield Result(
            name="decoding_threads", ours=len(paths) / shared, baseline=len(paths) / alone,
            ratio=alone / shared, unit="images/s", sides=(shared, alone),
            note=f"{threads} threads of one process against one",
        )  # fmt: skip


def batches() -> Iterator[Result]:
    """Images per second of training batches: latents, both noises, t, labels, noised latents."""
    steps = 40
    with TemporaryDirectory() as name:
        store, _ = latent_store(Path(name), np.random.default_rng(0))
        source = BatchSource(store, TrainingConfig(checkpoints=(100,), batch_size=BATCH), seed=0)
        for title, requested, size, threads in (
            ("training_data", 10_000 // 8, BATCH // 8, 1),
            ("training_data_2_threads", 10_000, BATCH, 2),
        ):
            torch.set_num_threads(threads)
            stream = source.stream(range(steps), [range(size)], torch.device("cpu"))
            next(stream)
            started = time.perf_counter()
            for step in range(1, steps):
                next(stream)
                time.sleep(
                    max(0.0, started + step * size / requested - time.perf_counter())
                )  # the training's own work
            rate = (steps - 1) * size / (time.perf_counter() - started)
            torch.set_num_threads(1)
            whose = "one of 8 processes" if threads == 1 else "the only process"
            yield Result(
                name=title, ours=rate, baseline=requested, ratio=rate / requested, unit="images/s",
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
            name="latent_loading", ours=ours, baseline=ancestor, ratio=ours / ancestor,
            unit="samples/s", sides=(own, one),
            note=f"{note}; baseline: one .npy and one 256-pixel PNG per sample, decoded by PIL",
        )  # fmt: skip
        yield Result(
            name="latent_loading_share", ours=ours, baseline=mapped, ratio=ours / mapped,
            unit="samples/s", note="baseline: a bare memory map", sides=(own, map_),
        )  # fmt: skip
        noise = rng.standard_normal((BATCH, *SHAPE[1:]), dtype=np.float32)
        sampled, read = interleaved(
            lambda: store.latents(order[0], noise), lambda: store.moments(order[0])
        )
        yield Result(
            name="posterior_sample", ours=BATCH / sampled, baseline=BATCH / read,
            ratio=read / sampled, unit="samples/s", sides=(sampled, read),
            note="read, sampled and scaled against read; noise given",
        )  # fmt: skip
