"""What a training signal is: a term of the loss over the tokens of some blocks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftrans.config import TimeRange


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch of noisy latents, with all that a training signal may ask about it."""

    z_BCHW: Tensor
    """Clean latents."""
    x_BCHW: Tensor
    """Noisy latents x_t, the backbone's input."""
    velocity_BCHW: Tensor
    """The target of denoising."""
    t_B: Tensor
    """Times, on the device."""
    times: NDArray[np.float32]
    """The same times on the host, where a selection costs no synchronisation."""
    labels_B: Tensor
    """True classes."""
    dropped_labels_B: Tensor
    """Classes with some replaced by the null class: what the student sees."""

    def rows_within(self, t_range: TimeRange) -> Tensor:
        """Rows whose time lies in the range: the others contribute exactly zero and need not be computed."""
        rows = np.flatnonzero((self.times >= t_range.low) & (self.times <= t_range.high))
        return torch.from_numpy(rows).to(self.t_B.device, non_blocking=True)


class Guidance(nn.Module, ABC):
    """A training signal; its parameters are heads that only training needs.

    ``forward`` returns the unweighted term, averaged over the whole micro-batch. Every parameter takes part in it
    whatever the batch holds, so that distributed training never meets a parameter without gradient.
    """

    weight: float = 0.0
    """Factor lambda of the term in the loss."""
    depths: tuple[int, ...] = ()
    """Student blocks, counted from 1, whose tokens ``forward`` is given."""

    def is_active(self, step: int) -> bool:
        """Whether the term counts in optimizer step ``step`` (counted from 0)."""
        return True

    @abstractmethod
    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """The term, a scalar in float32; ``features[d]`` are the tokens (B, T, D) after student block d."""


class Unguided(Guidance):
    """No training signal: SiT itself."""

    def is_active(self, step: int) -> bool:
        """Never."""
        return False

    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """Zero."""
        return batch.t_B.new_zeros(())


def mean_squared_error_over_batch(prediction: Tensor, target: Tensor, batch_size: int) -> Tensor:
    """Per-sample mean squared errors of the selected rows, summed and divided by the size of the whole batch.

    This is "multiply each sample's loss by 1 if t is in range, else 0, then average over the batch".
    """
    errors = (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
    return errors.sum() / batch_size
