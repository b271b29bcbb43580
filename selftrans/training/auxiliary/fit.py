"""A plain optimisation loop for small networks: AdamW under half a cosine, no resume."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selftrans.config import ClassifierConfig, DatasetConfig, TrainedEncoderConfig
from selftrans.data.sources import held_out, read_all
from selftrans.models.autoencoder import to_signed
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import Progress
from selftrans.runtime.random import Stream, generator

NOISE = 0.1  # standard deviation of pixel noise in [-1, 1]: no feature depends on single pixels
WARM_UP = 0.05  # share of the steps in which the learning rate rises


def fit(
    model: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    label: str,
) -> None:
    """Minimise ``loss_of_step(step)`` over the model's parameters.

    Raises:
        UserError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / (WARM_UP * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps)
        ),
    )
    model.train()
    with Progress(steps, label, "step") as bar:
        for step in range(steps):
            loss = loss_of_step(step)
            if not math.isfinite(value := loss.item()):
                raise UserError(
                    f"{label}: the loss is not finite at step {step}; lower its learning_rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update(note=f"loss {value:.5f}")
    model.eval()


def fit_classifier(
    network: nn.Module,
    logits_of: Callable[[Tensor], Tensor],
    data: DatasetConfig,
    settings: ClassifierConfig | TrainedEncoderConfig,
    stream: Stream,
    label: str,
) -> float:
    """Fit ``network`` to the labels of ``data``; returns the accuracy on the images held out.

    Args:
        network: what is trained, on its device.
        logits_of: logits (B, K) of images in [-1, 1], (B, 3, H, W), computed by ``network``.
        data: the images.
        settings: seed, steps, batch size, learning rate.
        stream: of the random order.
        label: name in the log.

    Raises:
        UserError: the images have captions and no classes.
    """
    device = next(network.parameters()).device
    images, labels = map(torch.from_numpy, read_all(data))
    if data.source.has_captions and len(labels.unique()) == 1:
        raise UserError(
            f"data {data.name!r}: {label}: is trained on classes, the images have captions alone"
        )
    hidden = held_out(len(images))
    shown = np.flatnonzero(~hidden)
    order = shuffled(generator(settings.seed, stream, 1), len(shown), settings.batch_size)

    def loss_of_step(_: int) -> Tensor:
        chosen = shown[next(order)]
        pixels = to_signed(images[chosen].to(device))
        logits = logits_of(pixels + NOISE * torch.randn_like(pixels))
        return nn.functional.cross_entropy(logits, labels[chosen].to(device))

    fit(network, loss_of_step, settings.steps, settings.learning_rate, label)
    with torch.inference_mode():
        logits = logits_of(to_signed(images[hidden].to(device)))
    return (logits.argmax(dim=1).cpu() == labels[hidden]).double().mean().item()


def shuffled(rng: np.random.Generator, count: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Endless passes over ``count`` items, reshuffled each time, in full batches."""
    order = np.empty(0, np.int64)
    while True:
        while len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:batch_size]
        order = order[batch_size:]
