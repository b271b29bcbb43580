"""The velocity loss on images that are held out of a training, by t.

Everything random about it is a function of the image: its noise, its time and its sample of the
posterior are the same at every evaluation, in every run. So a difference between two evaluations
is one between weights. It draws from no generator that a training uses.
"""

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from selftrans.config import HELD_OUT_BINS, TrainingConfig
from selftrans.data.conditions import Conditions
from selftrans.data.store import LatentStore
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.models.backbone import Backbone
from selftrans.runtime.random import Stream, generator
from selftrans.training.batches import HostBatch
from selftrans.training.precision import MixedPrecision
from selftrans.training.split import SEED, held_out_indices

CHUNK = 64
"""Images at a time, whatever the number of processes, so that the rounding is the same."""
HELD_OUT_COLUMNS = (
    "step",
    "loss",
    *(f"t_{low / HELD_OUT_BINS}-{(low + 1) / HELD_OUT_BINS}" for low in range(HELD_OUT_BINS)),
)
"""The mean over t, uniform in [0, 1), and the means over the bins of t."""


class HeldOutLoss:
    """The held-out loss of a run.

    Each image has one time. The n images share [0, 1) evenly: each has its own n-th of it, in
    random order.

    Args:
        store: the latents.
        training: how many images are held out, how often their loss is computed, the interpolant.
        mixed_precision: arithmetic of the forward pass.
        accelerator: the processes, which share the work.
        conditions: of the images; their classes, if they are not given.
    """

    def __init__(
        self,
        store: LatentStore,
        training: TrainingConfig,
        mixed_precision: MixedPrecision,
        accelerator: Accelerator,
        conditions: Conditions | None = None,
    ) -> None:
        self.store, self.training = store, training
        self.conditions = conditions or store.classes
        self.mixed_precision, self.accelerator = mixed_precision, accelerator
        self.indices = held_out_indices(store.labels, training.held_out)
        self.ranks = generator(SEED, Stream.HELD_OUT, 1).permutation(len(self.indices))

    def is_due(self, step: int) -> bool:
        """Whether it is computed at a step."""
        return bool(len(self.indices)) and step % self.training.held_out_every == 0

    @torch.no_grad()
    def row(self, step: int, backbone: Backbone) -> dict[str, float]:
        """One row of ``HELD_OUT_COLUMNS``, of a backbone that is in eval mode.

        The condition is the true one, an image's first. To be called in every process, with the
        same weights.
        """
        device = self.accelerator.device
        losses = torch.zeros(len(self.indices), dtype=torch.float64, device=device)
        for chosen, host_batch in self._chunks(step):
            batch = host_batch.to(device)
            with self.mixed_precision.autocast():
                velocity = backbone(batch.x_BCHW, batch.t_B, batch.condition_B)
            errors = (velocity.float() - batch.velocity_BCHW).square()
            losses[chosen] = errors.flatten(1).mean(1).double()
        summed = self.accelerator.reduce(losses, "sum").cpu().numpy()  # the others' are zero
        bins = self.ranks * HELD_OUT_BINS // len(self.ranks)
        means = [float(summed[bins == number].mean()) for number in range(HELD_OUT_BINS)]
        values = (float(step), float(summed.mean()), *means)
        return dict(zip(HELD_OUT_COLUMNS, values, strict=True))

    def _chunks(self, step: int) -> Iterator[tuple[slice, HostBatch]]:
        """This process's chunks of the images, and where they are among them."""
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        for start in range(rank * CHUNK, len(self.indices), world_size * CHUNK):
            chosen = slice(start, start + CHUNK)
            yield chosen, self._sample(step, self.indices[chosen], self.ranks[chosen])

    def _sample(self, step: int, indices: NDArray[np.int64], ranks: NDArray[np.int64]) -> HostBatch:
        size, shape = len(indices), self.store.manifest.latent_shape
        posterior_noise = np.empty((size, *shape), np.float32)
        noise = np.empty((size, *shape), np.float32)
        uniform = np.empty(size)
        for row, index in enumerate(indices.tolist()):
            rng = generator(SEED, Stream.HELD_OUT, 2, index)
            rng.standard_normal(dtype=np.float32, out=posterior_noise[row])
            rng.standard_normal(dtype=np.float32, out=noise[row])
            uniform[row] = rng.random()
        condition = self.conditions.values(self.conditions.of_images(indices))
        return HostBatch(
            step=step,
            interpolant=INTERPOLANTS[self.training.interpolant],
            z=self.store.latents(indices, posterior_noise),
            eps=noise,
            times=((ranks + uniform) / len(self.indices)).astype(np.float32),
            condition=condition,
            dropped_condition=condition,
            uniform=np.zeros(size, np.float32),
            encoder_features={},
            images=None,
        )
