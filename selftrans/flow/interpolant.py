"""Interpolants x_t = alpha(t) z + sigma(t) eps from data (t=0) to noise (t=1) (SiT, section 2)."""

import math
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrans.config import InterpolantName


class Interpolant(ABC):
    """An interpolant from data to noise; times have any shape that broadcasts to the latents."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the data."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Weight of the noise."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """Derivative of ``alpha``."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """Derivative of ``sigma``."""

    @abstractmethod
    def score(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Score of p_t: s = (r v - x) / (sigma^2 - r sigma' sigma) with r = alpha / alpha' (SiT).

        Each interpolant has it cancelled by hand, so that no 0/0 arises inside (0, 1].
        """

    @abstractmethod
    def time_of_ratio(self, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """The t at which sigma / alpha is ``ratio``."""

    def noised(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha z + sigma eps."""
        return self.alpha(t) * z + self.sigma(t) * noise

    def velocity(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The target of denoising, v = alpha' z + sigma' eps."""
        return self.d_alpha(t) * z + self.d_sigma(t) * noise


class Linear(Interpolant):
    """alpha = 1 - t, sigma = t: v = eps - z."""

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """The time itself."""
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        """-1."""
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def score(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The score s = -((1 - t) v + x) / t."""
        return -((1 - t) * velocity + x) / t

    def time_of_ratio(self, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """The solution of t / (1 - t) = ratio."""
        return ratio / (1 + ratio)


class Cosine(Interpolant):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""

    def alpha(self, t: Tensor) -> Tensor:
        """cos(pi t / 2)."""
        return torch.cos(t * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return torch.sin(t * (math.pi / 2))

    def d_alpha(self, t: Tensor) -> Tensor:
        """-pi/2 sin(pi t / 2)."""
        return -(math.pi / 2) * self.sigma(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        """pi/2 cos(pi t / 2)."""
        return (math.pi / 2) * self.alpha(t)

    def score(self, velocity: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The score s = -(sin(pi t / 2) x + (2 / pi) cos(pi t / 2) v) / sin(pi t / 2)."""
        return -(self.sigma(t) * x + (2 / math.pi) * self.alpha(t) * velocity) / self.sigma(t)

    def time_of_ratio(self, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
        """tan(pi t / 2) = ratio."""
        return (2 / math.pi) * np.arctan(ratio)


INTERPOLANTS: dict[InterpolantName, Interpolant] = {"linear": Linear(), "cosine": Cosine()}


def sample_time(
    rng: np.random.Generator,
    interpolant: Interpolant,
    distribution: Literal["uniform", "log-normal"],
) -> float:
    """One training time: uniform in [0, 1), or where sigma / alpha is exp(N(0, 1))."""
    if distribution == "uniform":
        return float(rng.random())
    return float(interpolant.time_of_ratio(np.exp(rng.standard_normal(1)))[0])
