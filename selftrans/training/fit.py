"""A plain optimisation loop for the small helper networks: AdamW under half a cosine, no resume, minutes at most."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import Progress

WARM_UP = 0.05  # share of the steps in which the learning rate rises


def fit(model: nn.Module, loss_of_step: Callable[[int], Tensor], steps: int, learning_rate: float, label: str) -> None:
    """Minimise ``loss_of_step(step)`` over the model's parameters.

    Raises:
        UserError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARM_UP * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    model.train()
    with Progress(steps, label, "step") as bar:
        for step in range(steps):
            loss = loss_of_step(step)
            if not math.isfinite(value := loss.item()):
                raise UserError(f"{label}: the loss is not finite at step {step}; lower its learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update(note=f"loss {value:.5f}")
    model.eval()


def shuffled(rng: np.random.Generator, count: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Endless passes over ``count`` items, reshuffled each time, in full batches."""
    order = np.empty(0, np.int64)
    while True:
        while len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:batch_size]
        order = order[batch_size:]
