"""Samplers from noise (t=1) to data (t=0), and classifier-free guidance.

The state is float64, the network of any precision. The procedures are those of SiT (Ma et al. 2024,
section 3 and appendix) with the constants of the REPA code base.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from selftrans.flow.interpolant import Interpolant
from selftrans.flow.times import guidance_acts, ode_times, sde_times

CPU_BYTES_AT_ONCE = 2**17
"""Size of the states that a core runs through the network together: eight latents of (4, 32, 32) in
fp32. What a layer writes is then still in the cache when the next one reads it."""

VelocityField = Callable[[Tensor, float, bool], Tensor]
"""(x (B, C, H, W) float64, t, whether guidance may act) -> velocity in float64."""


class Velocity(Protocol):
    """What a backbone is to a sampler."""

    def __call__(self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor) -> Tensor:
        """Velocity at (x, t) under the condition, which has a row for each sample."""
        ...


class TwoVelocities(Velocity, Protocol):
    """A backbone with a second output layer behind an earlier block."""

    def both_velocities(
        self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and that of the second output layer."""
        ...


@dataclass(frozen=True, kw_only=True)
class InternalGuidance:
    """Internal Guidance in an interval (Zhou et al. 2025): v_mid + scale (v - v_mid).

    With the velocity v_mid that the second output layer predicts, where low <= t <= high. An
    evaluation is guided by its own time, in Heun's method, too.
    """

    model: TwoVelocities
    scale: float
    low: float
    high: float

    def acts(self, t: float | Tensor, batch: int, device: torch.device) -> Tensor:
        """On which samples, (B,), at the time of all, or of each."""
        times = t.tolist() if isinstance(t, Tensor) else [t] * batch
        guided = [guidance_acts(time, self.scale, self.low, self.high) for time in times]
        return torch.tensor(guided, device=device)

    def __call__(self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor, acts_B: Tensor) -> Tensor:
        """The velocity in float64."""
        velocity, intermediate = self.model.both_velocities(x_BCHW, t_B, condition_B)
        velocity, intermediate = velocity.double(), intermediate.double()
        guided = intermediate + self.scale * (velocity - intermediate)
        return torch.where(acts_B.reshape(-1, 1, 1, 1), guided, velocity)


def rows_at_once(x_BCHW: Tensor) -> int:
    """Samples that are run through the network together: all, but for large batches on a CPU."""
    if x_BCHW.device.type != "cpu":
        return len(x_BCHW)
    return max(1, torch.get_num_threads() * CPU_BYTES_AT_ONCE // x_BCHW[0].nbytes)


@dataclass(frozen=True, kw_only=True)
class GuidedVelocity:
    """Classifier-free guidance in an interval (Kynkäänniemi et al. 2024).

    v_u + scale (v_c - v_u) where low <= t <= high. Outside the interval, and for scale 1, only the
    conditional pass is run. Since a sampler's drift is affine in the velocity, guiding the
    velocity is guiding the drift.
    """

    model: Velocity
    condition_B: Tensor
    """Of each sample: classes (B,), captions (B, L, K)."""
    null_condition: Tensor
    """What stands for no condition, one row of it."""
    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0
    channels: int | None = None
    """First channels that are guided, all if it is None; the others take the conditional velocity,
    as in SiT's published code (its ``forward_with_cfg``)."""
    dtype: torch.dtype = torch.float32
    internal: InternalGuidance | None = None
    """Guides both velocities, before they are combined."""

    def is_guided(self, t: float) -> bool:
        """Whether guidance acts at ``t``."""
        return guidance_acts(t, self.scale, self.low, self.high)

    def __call__(self, x_BCHW: Tensor, t: float | Tensor, guided: bool | Tensor) -> Tensor:
        """The velocity in float64.

        Args:
            x_BCHW: state.
            t: the time, or that of each sample (B,).
            guided: whether guidance acts, on all samples or on each (B,).
        """
        x, condition, batch = x_BCHW.to(self.dtype), self.condition_B, len(x_BCHW)
        # Times are never rounded to less than float32: the embedder's sinusoids depend on them.
        kind = torch.promote_types(self.dtype, torch.float32)
        times = (
            t.to(x.device, kind).expand(batch)
            if isinstance(t, Tensor)
            else torch.full((batch,), t, dtype=kind, device=x.device)
        )
        twice = guided if isinstance(guided, Tensor) else slice(batch if guided else 0)
        null = self.null_condition.expand_as(condition[twice])
        states, times = torch.cat([x, x[twice]]), torch.cat([times, times[twice]])
        conditions = torch.cat([condition, null])
        inputs: list[Tensor] = [states, times, conditions]
        network: Callable[..., Tensor] = self.model
        if self.internal is not None:
            acts = self.internal.acts(t, batch, x.device)
            network, inputs = self.internal, [*inputs, torch.cat([acts, acts[twice]])]
        rows = rows_at_once(states)
        parts = zip(*(one.split(rows) for one in inputs), strict=True)
        both = torch.cat([network(*part).double() for part in parts])
        velocity, unconditional = both[:batch].clone(), both[batch:]
        conditional = velocity[twice]
        guided_part = unconditional + self.scale * (conditional - unconditional)
        if self.channels is not None:
            guided_part[:, self.channels :] = conditional[:, self.channels :]
        velocity[twice] = guided_part
        return velocity

    def of_rows(self, x_BCHW: Tensor, t_B: Tensor, rows_B: Tensor) -> Tensor:
        """The velocity of some samples of the batch, each guided by its own time."""
        guided = [self.is_guided(t) for t in t_B.tolist()]
        field = replace(self, condition_B=self.condition_B[rows_B])
        return field(x_BCHW, t_B, torch.tensor(guided, device=t_B.device))


def euler(
    velocity: VelocityField, is_guided: Callable[[float], bool], x: Tensor, num_steps: int
) -> Tensor:
    """Euler's method on dx/dt = v from t=1 to t=0."""
    for now, after in pairwise(ode_times(num_steps)):
        x = x + (after - now) * velocity(x, now, is_guided(now))
    return x


def heun(
    velocity: VelocityField, is_guided: Callable[[float], bool], x: Tensor, num_steps: int
) -> Tensor:
    """Heun's method; the last step, to t=0, is Euler's, as in REPA's code.

    SiT's own Heun evaluates a second time in the last step, too. The second evaluation is guided
    where the first one is.
    """
    for now, after in pairwise(ode_times(num_steps)):
        slope = velocity(x, now, is_guided(now))
        ahead = x + (after - now) * slope
        if after > 0:
            slope = (slope + velocity(ahead, after, is_guided(now))) / 2
            ahead = x + (after - now) * slope
        x = ahead
    return x


def euler_maruyama(
    velocity: VelocityField,
    is_guided: Callable[[float], bool],
    x: Tensor,
    num_steps: int,
    interpolant: Interpolant,
    noise: Callable[[], Tensor],
) -> Tensor:
    """Euler-Maruyama on the reverse SDE with diffusion w(t) = 2 t.

    Drift v - w/2 s, noise sqrt(w |dt|) N(0, I). The last step, from t=0.04 to 0,
    has the same drift and no noise.

    Args:
        velocity, is_guided: the (guided) field.
        x: noise at t=1, (B, C, H, W) float64.
        num_steps: grid points from 1 to 0.04.
        interpolant: which turns velocity into score.
        noise: a fresh draw of N(0, I) in the shape of ``x``.
    """
    for now, after in pairwise(sde_times(num_steps)):
        v = velocity(x, now, is_guided(now))
        diffusion = 2 * now
        drift = v - diffusion / 2 * interpolant.score(v, x, x.new_full((), now))
        x = x + (after - now) * drift
        if after > 0:
            x = x + (diffusion * (now - after)) ** 0.5 * noise()
    return x
