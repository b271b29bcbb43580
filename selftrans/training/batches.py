"""Training batches: everything random in step s is a function of (seed, s) and the position in the global batch."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import Training
from selftrans.data.sources import ImageSource
from selftrans.data.store import FeatureStore, LatentStore
from selftrans.flow.interpolant import INTERPOLANTS, Interpolant, draw_time
from selftrans.guidance.base import Batch
from selftrans.runtime.random import Stream, generator

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What is drawn for one micro-batch of B samples."""

    step: int
    """The optimizer step that it is drawn for."""
    z: NDArray[np.float32]
    """Clean latents, a fresh sample of the posterior, (B, C, H, W)."""
    eps: NDArray[np.float32]
    """Noise, (B, C, H, W)."""
    times: NDArray[np.float32]
    """t, (B,)."""
    labels: NDArray[np.int64]
    """True classes, (B,)."""
    dropped_labels: NDArray[np.int64]
    """Classes with some replaced by the null class, (B,)."""
    uniform: NDArray[np.float32]
    """Numbers in [0, 1) for the training signals, (B,)."""
    encoded: dict[str, NDArray[np.floating[Any]]]
    """Stored patch tokens of the clean images by encoder, (B, T, D)."""
    images: NDArray[np.uint8] | None
    """The clean images, where they are asked for, (B, H, W, 3)."""


class BatchSource:
    """Draws micro-batches of an endless, reshuffled pass over the store.

    Args:
        store: the latents.
        training: batch size, interpolant, distribution of t, label dropout.
        seed: the run's seed.
        features: stores of encoders' patch tokens that come with every batch.
        images: a source whose images come with every batch.
    """

    def __init__(
        self,
        store: LatentStore,
        training: Training,
        seed: int,
        features: Sequence[FeatureStore] = (),
        images: ImageSource | None = None,
    ) -> None:
        self.store, self.training, self.seed = store, training, seed
        self.features, self.images = features, images
        self.path = INTERPOLANTS[training.path]
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def indices(self, step: int, positions: range) -> NDArray[np.int64]:
        """Images at ``positions`` of global batch ``step``: epoch e is a permutation drawn from (seed, e)."""
        epochs, places = np.divmod(step * self.training.batch_size + np.asarray(positions), len(self.store))
        chosen = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            chosen[epochs == epoch] = self._order(int(epoch))[places[epochs == epoch]]
        return chosen

    def draw(self, step: int, positions: range, device: torch.device = CPU) -> Batch:
        """The part of global batch ``step`` at ``positions``."""
        return batch_of(self.draw_numbers(step, positions), self.path, device)

    def draw_numbers(self, step: int, positions: range) -> Numbers:
        """All that is random in that part, on the host."""
        size, shape = len(positions), self.store.manifest.latent_shape
        times = np.empty(size, np.float32)
        dropped = np.empty(size, np.bool_)
        posterior_noise = np.empty((size, *shape), np.float32)
        noise = np.empty((size, *shape), np.float32)
        uniform = np.empty(size, np.float32)
        views = np.zeros(size, np.int64)
        for row, position in enumerate(positions):
            rng = generator(self.seed, Stream.BATCH, step, position)
            times[row] = draw_time(rng, self.path, self.training.time)
            dropped[row] = rng.random() < self.training.label_dropout
            rng.standard_normal(dtype=np.float32, out=posterior_noise[row])
            rng.standard_normal(dtype=np.float32, out=noise[row])
            uniform[row] = rng.random()
            views[row] = rng.integers(self.store.manifest.views)
        indices = self.indices(step, positions)
        labels = self.store.labels[indices]
        return Numbers(
            step=step,
            z=self.store.latents(indices, posterior_noise, views),
            eps=noise,
            times=times,
            labels=labels,
            dropped_labels=np.where(dropped, self.store.manifest.num_classes, labels),
            uniform=uniform,
            encoded={features.name: features.rows.of(indices, views) for features in self.features},
            images=None if self.images is None else mirrored(self.images.read(indices), views),
        )

    def stream(self, steps: range, parts: list[range], device: torch.device) -> Iterator[list[Batch]]:
        """This process's micro-batches of each step, on ``device``; threads draw the next steps meanwhile."""

        def draw(step: int) -> list[Numbers]:
            return [self.draw_numbers(step, part) for part in parts]

        # Almost all of the time goes into normal numbers, for which numpy lets other threads run.
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="batches") as pool:
            coming: deque[Future[list[Numbers]]] = deque()
            for step in steps:
                while len(coming) <= threads and step + len(coming) in steps:
                    coming.append(pool.submit(draw, step + len(coming)))
                yield [batch_of(numbers, self.path, device) for numbers in coming.popleft().result()]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return generator(self.seed, Stream.ORDER, epoch).permutation(len(self.store))


def mirrored(images_BHWC: NDArray[np.uint8], views_B: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images, those of view 1 mirrored."""
    return np.where(views_B[:, None, None, None] == 1, images_BHWC[:, :, ::-1], images_BHWC)


def batch_of(numbers: Numbers, path: Interpolant, device: torch.device) -> Batch:
    """The batch on ``device``, where the noisy latents and the target are computed."""
    z, eps = on_device(numbers.z, device), on_device(numbers.eps, device)
    t = on_device(numbers.times, device)
    t_B111 = t.reshape(-1, 1, 1, 1)
    return Batch(
        step=numbers.step,
        path=path,
        z_BCHW=z,
        eps_BCHW=eps,
        x_BCHW=path.noised(z, eps, t_B111),
        velocity_BCHW=path.velocity(z, eps, t_B111),
        t_B=t,
        times=numbers.times,
        labels_B=on_device(numbers.labels, device),
        dropped_labels_B=on_device(numbers.dropped_labels, device),
        uniform_B=on_device(numbers.uniform, device),
        encoded={name: on_device(tokens, device) for name, tokens in numbers.encoded.items()},
        images_BHWC=None if numbers.images is None else on_device(numbers.images, device),
    )


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array as a tensor on ``device``; a GPU copies it while the program goes on."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def process_parts(batch_size: int, processes: int, accumulate: int, rank: int) -> list[range]:
    """Positions of the global batch that process ``rank`` computes, a range for each micro-batch."""
    size = batch_size // (processes * accumulate)
    first = rank * accumulate * size
    return [range(first + part * size, first + (part + 1) * size) for part in range(accumulate)]
