"""Training batches: all that is random is a function of seed, step and position in the batch."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.alignment.base import Batch
from selftrans.config import TrainingConfig
from selftrans.data.conditions import Conditions
from selftrans.data.sources import ImageSource
from selftrans.data.store import FeatureStore, LatentStore
from selftrans.flow.interpolant import INTERPOLANTS, Interpolant, sample_time
from selftrans.runtime.random import Stream, generator
from selftrans.training.split import trained_indices

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class HostBatch:
    """One sampled micro-batch of B samples, on the host."""

    step: int
    """The optimizer step that it is sampled for."""
    interpolant: Interpolant
    """Between data and noise."""
    z: NDArray[np.float32]
    """Clean latents, a fresh sample of the posterior, (B, C, H, W)."""
    eps: NDArray[np.float32]
    """Noise, (B, C, H, W)."""
    times: NDArray[np.float32]
    """t, (B,)."""
    condition: NDArray[Any]
    """What each image shows: classes (B,), or features of captions (B, L, K)."""
    dropped_condition: NDArray[Any]
    """The same with some replaced by the null condition."""
    uniform: NDArray[np.float32]
    """Uniform draws in [0, 1) for the alignment losses, (B,)."""
    encoder_features: dict[str, NDArray[np.floating[Any]]]
    """Stored patch tokens of the clean images by encoder, (B, T, D)."""
    images: NDArray[np.uint8] | None
    """The clean images, where they are requested, (B, H, W, 3)."""
    global_times: NDArray[np.float32] | None = None
    """t of the whole global batch, where it is requested."""

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``, where the noisy latents and the velocity are computed."""
        z, eps, t = (on_device(array, device) for array in (self.z, self.eps, self.times))
        t_B111 = t.reshape(-1, 1, 1, 1)
        return Batch(
            step=self.step,
            interpolant=self.interpolant,
            z_BCHW=z,
            eps_BCHW=eps,
            x_BCHW=self.interpolant.noised(z, eps, t_B111),
            velocity_BCHW=self.interpolant.velocity(z, eps, t_B111),
            t_B=t,
            times=self.times,
            condition_B=on_device(self.condition, device),
            dropped_condition_B=on_device(self.dropped_condition, device),
            uniform_B=on_device(self.uniform, device),
            encoder_features={
                name: on_device(tokens, device) for name, tokens in self.encoder_features.items()
            },
            images_BHWC=None if self.images is None else on_device(self.images, device),
            global_times=self.global_times,
        )


class BatchSource:
    """Samples micro-batches of an endless, reshuffled pass over the images that are trained on.

    Args:
        store: the latents.
        training: batch size, interpolant, distribution of t, dropout of conditions.
        seed: the run's seed.
        features: stores of encoders' patch tokens, part of every batch.
        images: source of clean images, part of every batch.
        with_global_times: whether every batch knows the times of its whole global batch.
        conditions: of the images; their classes, if they are not given.

    Raises:
        UserError: so many images are held out that fewer than a batch are left.
    """

    def __init__(
        self,
        store: LatentStore,
        training: TrainingConfig,
        seed: int,
        features: Sequence[FeatureStore] = (),
        images: ImageSource | None = None,
        with_global_times: bool = False,
        conditions: Conditions | None = None,
    ) -> None:
        self.store, self.conditions = store, conditions or store.classes
        self.training, self.seed = training, seed
        self.trained = trained_indices(store.labels, training)
        self.features, self.images = features, images
        self.interpolant = INTERPOLANTS[training.interpolant]
        self.with_global_times = with_global_times
        self._order = lru_cache(maxsize=2)(self._shuffled)
        self._global_times = lru_cache(maxsize=8)(self._times)  # for all micro-batches of a step

    def indices(self, step: int, positions: range) -> NDArray[np.int64]:
        """Images at ``positions`` of a global batch: epoch e is a permutation from (seed, e)."""
        epochs, offsets = np.divmod(
            step * self.training.batch_size + np.asarray(positions), len(self.trained)
        )
        chosen = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            chosen[epochs == epoch] = self._order(int(epoch))[offsets[epochs == epoch]]
        return chosen

    def draw(self, step: int, positions: range, device: torch.device = CPU) -> Batch:
        """The part of global batch ``step`` at ``positions``."""
        return self.sample_batch(step, positions).to(device)

    def sample_batch(self, step: int, positions: range) -> HostBatch:
        """All that is random in that part, on the host."""
        size, shape = len(positions), self.store.manifest.latent_shape
        times = np.empty(size, np.float32)
        dropped = np.empty(size, np.bool_)
        posterior_noise = np.empty((size, *shape), np.float32)
        noise = np.empty((size, *shape), np.float32)
        uniform = np.empty(size, np.float32)
        views = np.zeros(size, np.int64)
        rows = np.empty(size, np.int64)
        indices = self.indices(step, positions)
        for row, position in enumerate(positions):
            rng, times[row] = self._time(step, position)
            dropped[row] = rng.random() < self.training.label_dropout
            rng.standard_normal(dtype=np.float32, out=posterior_noise[row])
            rng.standard_normal(dtype=np.float32, out=noise[row])
            uniform[row] = rng.random()
            views[row] = rng.integers(self.store.manifest.views)
            rows[row] = self.conditions.choose(int(indices[row]), rng)
        condition = self.conditions.values(rows)
        return HostBatch(
            step=step,
            interpolant=self.interpolant,
            z=self.store.latents(indices, posterior_noise, views),
            eps=noise,
            times=times,
            condition=condition,
            dropped_condition=self.conditions.dropped(condition, dropped),
            uniform=uniform,
            encoder_features={
                features.name: features.rows.of(indices, views) for features in self.features
            },
            images=None if self.images is None else mirrored(self.images.read(indices), views),
            global_times=self._global_times(step) if self.with_global_times else None,
        )

    def _time(self, step: int, position: int) -> tuple[np.random.Generator, float]:
        """The generator of a sample, and what is drawn first of it."""
        rng = generator(self.seed, Stream.BATCH, step, position)
        return rng, sample_time(rng, self.interpolant, self.training.time_sampling)

    def _times(self, step: int) -> NDArray[np.float32]:
        positions = range(self.training.batch_size)
        return np.array([self._time(step, position)[1] for position in positions], np.float32)

    def stream(
        self, steps: range, micro_batch_slices: list[range], device: torch.device
    ) -> Iterator[list[Batch]]:
        """This process's micro-batches of each step, on ``device``; threads sample ahead."""

        def sample(step: int) -> list[HostBatch]:
            return [self.sample_batch(step, positions) for positions in micro_batch_slices]

        # Most time goes into normal noise, for which numpy lets other threads run.
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="batches") as pool:
            pending: deque[Future[list[HostBatch]]] = deque()
            for step in steps:
                while len(pending) <= threads and step + len(pending) in steps:
                    pending.append(pool.submit(sample, step + len(pending)))
                yield [batch.to(device) for batch in pending.popleft().result()]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        order = generator(self.seed, Stream.ORDER, epoch).permutation(len(self.trained))
        return self.trained[order]


def mirrored(images_BHWC: NDArray[np.uint8], views_B: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images, those of view 1 mirrored."""
    return np.where(views_B[:, None, None, None] == 1, images_BHWC[:, :, ::-1], images_BHWC)


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array as a tensor on ``device``; a GPU copies it while the program goes on."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def local_batch_slices(batch_size: int, processes: int, accumulate: int, rank: int) -> list[range]:
    """Positions in the global batch that process ``rank`` computes, a range per micro-batch."""
    size = batch_size // (processes * accumulate)
    first = rank * accumulate * size
    return [range(first + part * size, first + (part + 1) * size) for part in range(accumulate)]
