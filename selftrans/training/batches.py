"""Training batches: everything random in step s is a function of (seed, s) and the position in the global batch."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import Training
from selftrans.data.store import LatentStore
from selftrans.flow.interpolant import INTERPOLANTS, draw_time
from selftrans.guidance.base import Batch
from selftrans.runtime.random import Stream, generator


class BatchSource:
    """Draws micro-batches of an endless, reshuffled pass over the store.

    Args:
        store: the latents.
        training: batch size, interpolant, distribution of t, label dropout.
        seed: the run's seed.
    """

    def __init__(self, store: LatentStore, training: Training, seed: int) -> None:
        self.store, self.training, self.seed = store, training, seed
        self.path = INTERPOLANTS[training.path]
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def indices(self, step: int, positions: range) -> NDArray[np.int64]:
        """Images at ``positions`` of global batch ``step``: epoch e is a permutation drawn from (seed, e)."""
        epochs, places = np.divmod(step * self.training.batch_size + np.asarray(positions), len(self.store))
        chosen = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            chosen[epochs == epoch] = self._order(int(epoch))[places[epochs == epoch]]
        return chosen

    def draw(self, step: int, positions: range) -> Batch:
        """The part of global batch ``step`` at ``positions``, on the host."""
        size, shape = len(positions), self.store.manifest.latent_shape
        times = np.empty(size, np.float32)
        dropped = np.empty(size, np.bool_)
        posterior_noise = np.empty((size, *shape), np.float32)
        noise = np.empty((size, *shape), np.float32)
        for row, position in enumerate(positions):
            rng = generator(self.seed, Stream.BATCH, step, position)
            times[row] = draw_time(rng, self.path, self.training.time)
            dropped[row] = rng.random() < self.training.label_dropout
            rng.standard_normal(dtype=np.float32, out=posterior_noise[row])
            rng.standard_normal(dtype=np.float32, out=noise[row])
        indices = self.indices(step, positions)
        labels = self.store.labels[indices]
        z = torch.from_numpy(self.store.latents(indices, posterior_noise))
        eps, t = torch.from_numpy(noise), torch.from_numpy(times)
        t_B111 = t.reshape(-1, 1, 1, 1)
        return Batch(
            z_BCHW=z,
            x_BCHW=self.path.noised(z, eps, t_B111),
            velocity_BCHW=self.path.velocity(z, eps, t_B111),
            t_B=t,
            times=times,
            labels_B=torch.from_numpy(labels),
            dropped_labels_B=torch.from_numpy(np.where(dropped, self.store.manifest.num_classes, labels)),
        )

    def stream(self, steps: range, parts: list[range], device: torch.device) -> Iterator[list[Batch]]:
        """This process's micro-batches of each step, on ``device``; a thread draws the next step meanwhile."""

        def prepare(step: int) -> list[Batch]:
            return [to_device(self.draw(step, part), device) for part in parts]

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            coming: Future[list[Batch]] | None = None
            for step in steps:
                current = coming or pool.submit(prepare, step)
                coming = pool.submit(prepare, step + 1) if step + 1 in steps else None
                yield current.result()

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return generator(self.seed, Stream.ORDER, epoch).permutation(len(self.store))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``; ``times`` stay on the host."""
    if device.type == "cpu":
        return batch
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    moved: dict[str, Any] = {name: value.pin_memory().to(device, non_blocking=True) for name, value in tensors.items()}
    return dataclasses.replace(batch, **moved)


def process_parts(batch_size: int, processes: int, accumulate: int, rank: int) -> list[range]:
    """Positions of the global batch that process ``rank`` computes, a range for each micro-batch."""
    size = batch_size // (processes * accumulate)
    first = rank * accumulate * size
    return [range(first + part * size, first + (part + 1) * size) for part in range(accumulate)]
