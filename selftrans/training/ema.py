"""The moving average of the weights, which is what gets sampled."""

import copy
from typing import Generic, TypeVar

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

M = TypeVar("M", bound=nn.Module)


class MovingAverage(Generic[M]):
    """Exponential moving average of a module's parameters, by torch's multi-tensor path.

    Args:
        module: what is averaged; the average starts as a copy of it.
        decay: share of the average that one update keeps.
    """

    def __init__(self, module: M, decay: float) -> None:
        self.average = copy.deepcopy(module).requires_grad_(False).eval()
        # Walking through the modules costs more than the update itself where the model is small.
        self._pairs = list(self.average.parameters()), list(module.parameters())
        self._update = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Fold the parameters in: average = decay average + (1 - decay) parameters."""
        self._update(*self._pairs, 0)
