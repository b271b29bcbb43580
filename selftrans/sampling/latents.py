"""Latents of samples: normal noise of each sample's own, carried to t = 0 by a sampler."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from selftrans.config import InternalGuidanceConfig, InterpolantName, SamplerConfig
from selftrans.flow.dopri5 import dopri5
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.flow.sampler import (
    GuidedVelocity,
    InternalGuidance,
    Velocity,
    euler,
    euler_maruyama,
    heun,
)
from selftrans.models.sit import SiT
from selftrans.runtime.errors import UserError
from selftrans.runtime.random import Stream, generator
from selftrans.runtime.tensors import DTYPES


class SampleNoise:
    """Normal noise of some samples: each has its own generator, read once per call."""

    def __init__(
        self,
        seed: int,
        indices: Iterable[int],
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        self._generators = [generator(seed, Stream.SAMPLE, index) for index in indices]
        self._shape, self._device = shape, device

    def __call__(self) -> Tensor:
        """The next draw of N(0, I), (B, C, H, W) in float64."""
        noise = np.stack([rng.standard_normal(self._shape) for rng in self._generators])
        return torch.from_numpy(noise).to(self._device)


def internal_guidance(model: Velocity, settings: InternalGuidanceConfig) -> InternalGuidance | None:
    """Internal Guidance by a model's second output layer; None for scale 1.

    Raises:
        UserError: the model has none.
    """
    if settings.scale == 1:
        return None
    if not isinstance(model, SiT) or model.intermediate_layer is None:
        raise UserError(
            f"internal_guidance: scale: {settings.scale:g}, but the model has no second output"
            " layer (allowed: 1, or a checkpoint of the method internal-guidance)"
        )
    return InternalGuidance(model=model, scale=settings.scale, low=settings.low, high=settings.high)


@torch.inference_mode()
def sample_latents(
    model: Velocity,
    settings: SamplerConfig,
    condition_B: Tensor,
    noise: SampleNoise,
    null_condition: Tensor,
    interpolant: InterpolantName = "linear",
) -> Tensor:
    """Latents (B, C, H, W) in float64, as the model sees them (scaled).

    Args:
        model: the velocity.
        settings: sampler, steps, guidance, precision.
        condition_B: classes (B,), or captions (B, L, K).
        noise: the samples' normal noise.
        null_condition: what stands for no condition, one row of it.
        interpolant: the one that the model was trained on.

    Raises:
        UserError: more channels are to be guided than there are, the model has no second output
            layer to be guided by, or `dopri5` cannot go on.
    """
    guidance = settings.guidance
    field = GuidedVelocity(
        model=model,
        condition_B=condition_B,
        null_condition=null_condition,
        scale=guidance.scale,
        low=guidance.low,
        high=guidance.high,
        channels=guidance.channels,
        dtype=DTYPES.get(settings.precision, torch.float32),
        internal=internal_guidance(model, settings.internal_guidance),
    )
    x = noise()
    if guidance.channels is not None and guidance.channels > x.shape[1]:
        raise UserError(
            f"guidance: channels: {guidance.channels} is beyond the latents' {x.shape[1]} channels"
        )
    match settings.sampler:
        case "euler":
            return euler(field, field.is_guided, x, settings.num_steps)
        case "heun":
            return heun(field, field.is_guided, x, settings.num_steps)
        case "euler-maruyama":
            return euler_maruyama(
                field, field.is_guided, x, settings.num_steps, INTERPOLANTS[interpolant], noise
            )
        case "dopri5":
            assert settings.rtol is not None
            assert settings.atol is not None
            return dopri5(field.of_rows, x, settings.num_steps, settings.rtol, settings.atol)
