"""Dormand-Prince 5(4), SiT's default for the ODE, with steps of each sample's own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from selftrans.runtime.errors import UserError

VelocityOfRows = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x (B, C, H, W) float64, t (B,), which samples of the batch these are (B,)) -> velocity."""

# Dormand-Prince 5(4) (Dormand and Prince 1980, RK5(4)7M): the node of each stage after the first,
# and its weights of the slopes before it. The last stage is the state after the step, so that its
# slope is the first one of the next step.
_STAGES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1, (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
# The weights of order 5 less those of order 4.
_ERROR = (-71 / 57600, 0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
_SAFETY, _LEAST_FACTOR, _LARGEST_FACTOR = 0.9, 0.2, 10.0
_EXPONENT = -1 / 5  # the error of order 4 falls with the fifth power of the step


def dopri5(velocity: VelocityOfRows, x: Tensor, num_steps: int, rtol: float, atol: float) -> Tensor:
    """Dormand-Prince 5(4) on dx/dt = v from t=1 to t=0, with steps of each sample's own.

    SiT's default has one step for the whole batch (torchdiffeq). Here each sample takes the steps
    that SciPy's ``RK45`` takes on it alone, so it does not depend on its batch. A sample that has
    arrived is not evaluated again.

    Args:
        velocity: the (guided) field.
        x: noise at t=1, (B, C, H, W) float64.
        num_steps: most steps of a sample, rejected ones included.
        rtol, atol: the error of a step is at most ``atol + rtol |x|``, as a root mean square.

    Raises:
        UserError: a sample needs more steps, or steps below rounding.
    """
    result, rows = torch.empty_like(x), torch.arange(len(x), device=x.device)
    slope = velocity(x, x.new_ones(len(x)), rows)
    steps = [_Step(size) for size in _first_sizes(velocity, x, slope, rows, rtol, atol)]
    while steps:
        for step in steps:
            step.begin(num_steps)
        t, h = x.new_tensor([(step.t, step.after - step.t) for step in steps]).T
        ahead, slopes = x, [slope]
        for node, weights in _STAGES:
            ahead = x + _column(h) * _combined(weights, slopes)
            slopes.append(velocity(ahead, t + node * h, rows))
        scale = atol + rtol * torch.maximum(x.abs(), ahead.abs())
        errors = _norms(_column(h) * _combined(_ERROR, slopes) / scale)
        accepted = [step.end(error) for step, error in zip(steps, errors, strict=True)]
        moved = _column(torch.tensor(accepted, device=x.device))
        x, slope = torch.where(moved, ahead, x), torch.where(moved, slopes[-1], slope)
        going = torch.tensor([step.t > 0 for step in steps], device=x.device)
        result[rows[~going]] = x[~going]
        x, slope, rows = x[going], slope[going], rows[going]
        steps = [step for step in steps if step.t > 0]
    return result


@dataclass
class _Step:
    """Where a sample is, and its next step: the control of SciPy's ``RK45``."""

    size: float
    t: float = 1.0
    after: float = 1.0
    count: int = 0
    rejected: bool = False

    def begin(self, num_steps: int) -> None:
        """Decide where the step leads."""
        if self.count == num_steps:
            raise UserError(
                f"dopri5: num_steps: after {num_steps} steps a sample is at t = {self.t:.3g}"
                " (allowed: more steps, or a larger rtol or atol)"
            )
        least = 10 * (self.t - math.nextafter(self.t, -math.inf))
        if self.rejected and not self.size >= least:  # nor is it if it is no number
            raise UserError(
                f"dopri5: rtol: a sample at t = {self.t:.3g} needs a step below rounding"
                " (allowed: a larger rtol or atol, for a velocity that is finite)"
            )
        self.after = max(self.t - max(self.size, least), 0.0)
        self.size = self.t - self.after
        self.count += 1

    def end(self, error: float) -> bool:
        """Accept or reject the step by its error, and choose the size of the next one."""
        factor = _SAFETY * error**_EXPONENT if error else math.inf
        accepted = error < 1
        if accepted:
            self.size *= min(1.0 if self.rejected else _LARGEST_FACTOR, factor)
            self.t = self.after
        else:
            self.size *= max(_LEAST_FACTOR, factor)  # the former, if the error is no number
        self.rejected = not accepted
        return accepted


def _first_sizes(
    velocity: VelocityOfRows, x: Tensor, slope: Tensor, rows: Tensor, rtol: float, atol: float
) -> list[float]:
    """First steps (Hairer, Nørsett and Wanner 1993, section II.4) by the field's change."""
    scale = atol + rtol * x.abs()
    values, slopes = _norms(x / scale), _norms(slope / scale)
    trials = [
        1e-6 if min(value, first) < 1e-5 else min(0.01 * value / first, 1.0)
        for value, first in zip(values, slopes, strict=True)
    ]
    h = -x.new_tensor(trials)
    ahead = velocity(x + _column(h) * slope, 1 + h, rows)
    sizes = []
    for trial, first, change in zip(trials, slopes, _norms((ahead - slope) / scale), strict=True):
        steepest = max(first, change / trial)
        size = max(1e-6, 1e-3 * trial) if steepest <= 1e-15 else (0.01 / steepest) ** -_EXPONENT
        sizes.append(min(100 * trial, size, 1.0))
    return sizes


def _combined(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """The weighted sum, whose rounding does not depend on the batch."""
    return reduce(torch.add, (w * slope for w, slope in zip(weights, slopes, strict=True)))


def _column(values_B: Tensor) -> Tensor:
    """A value for each sample, as a factor of its latent."""
    return values_B.reshape(-1, 1, 1, 1)


def _norms(x_BCHW: Tensor) -> list[float]:
    """Root mean square of each sample."""
    flat = x_BCHW.flatten(1)
    norms: list[float] = (torch.linalg.vector_norm(flat, dim=1) / flat.shape[1] ** 0.5).tolist()
    return norms
