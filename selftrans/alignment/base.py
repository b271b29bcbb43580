"""What a training signal is: a term of the loss over the tokens of some blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from selftrans.config import AlignmentConfig, TimeRangeConfig
from selftrans.data.store import FeatureStore
from selftrans.flow.interpolant import Interpolant
from selftrans.models.encoder import PatchEncoder
from selftrans.models.sit import SiT, SiTShape, SiTTrunk


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch of noisy latents, with all that a training signal may ask about it."""

    step: int
    """Optimizer step, counted from 0."""
    interpolant: Interpolant
    """The way from data to noise."""
    z_BCHW: Tensor
    """Clean latents."""
    eps_BCHW: Tensor
    """Noise."""
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
    uniform_B: Tensor
    """A number in [0, 1) for each sample, for a signal's own use."""
    encoder_features: Mapping[str, Tensor] = field(default_factory=dict)
    """Stored patch tokens of the clean images, (B, T', D'), by encoder."""
    images_BHWC: Tensor | None = None
    """The clean images in uint8, where a signal asks for them."""

    def rows_within(self, t_range: TimeRangeConfig) -> Tensor:
        """Rows whose time lies in the range: the others contribute exactly zero and need not be computed."""
        rows = np.flatnonzero((self.times >= t_range.low) & (self.times <= t_range.high))
        return torch.from_numpy(rows).to(self.t_B.device, non_blocking=True)

    def noised(self, t_B: Tensor) -> Tensor:
        """The same latents and noise at other times, (B, C, H, W)."""
        return self.interpolant.noised(self.z_BCHW, self.eps_BCHW, t_B.reshape(-1, 1, 1, 1))


class LossOutput(NamedTuple):
    """What a signal comes to on a micro-batch."""

    loss: Tensor
    """The term of the loss, averaged over the whole micro-batch: a scalar in float32."""
    cosine_similarity: Tensor
    """Cosine of prediction and guiding feature, for each sample that counts; without gradient where the term is another."""


@dataclass(frozen=True, kw_only=True)
class AlignmentInputs:
    """What a signal is built from, beside its settings."""

    shape: SiTShape
    """The student's."""
    teacher: SiTTrunk | None = None
    """The frozen teacher, for a signal that follows one."""
    encoder: FeatureStore | PatchEncoder | None = None
    """The encoder's stored features, or the encoder itself, for a signal that follows one."""


class AlignmentLoss(nn.Module, ABC):
    """A training signal; its parameters are heads that only training needs.

    Every parameter takes part in ``forward`` whatever the batch holds, so that distributed training never meets a parameter
    without gradient.
    """

    depths: tuple[int, ...] = ()
    """Student blocks, counted from 1, whose tokens ``forward`` is given."""
    target_name: str = "guiding features"
    """What the guiding features are called in figures."""
    label_conditioned: bool = True
    """Whether the guiding features are a function of the sample's class, so that they may give it away."""

    def __init__(self, settings: AlignmentConfig) -> None:
        super().__init__()
        self.weight, self.stop_after = settings.weight, settings.stop_after

    def is_active(self, step: int) -> bool:
        """Whether the term counts in optimizer step ``step`` (counted from 0)."""
        return self.stop_after is None or step < self.stop_after

    def weight_at(self, step: int) -> float:
        """Factor of the term in the loss."""
        return self.weight

    def set_ema_model(self, ema_model: SiT) -> None:
        """Called once with the moving average of the model's weights, which goes on changing as they do."""

    @abstractmethod
    def guiding_features(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """What the student's tokens are drawn to, for every sample, (B, T, D'), without gradient."""

    @abstractmethod
    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> LossOutput:
        """The term; ``features[d]`` are the tokens (B, T, D) after student block d."""


class AlignmentLosses(nn.Module):
    """All training signals of a run: their weighted sum is what the loss has beside denoising. SiT itself has none."""

    def __init__(self, terms: Iterable[AlignmentLoss]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def active(self, step: int) -> list[AlignmentLoss]:
        """The signals that count in optimizer step ``step``."""
        return [term for term in self.losses if term.is_active(step)]

    @property
    def losses(self) -> list[AlignmentLoss]:
        """All signals."""
        return [term for term in self.terms if isinstance(term, AlignmentLoss)]

    def depths(self, step: int) -> tuple[int, ...]:
        """Student blocks whose tokens are needed in that step."""
        return tuple(sorted({depth for term in self.active(step) for depth in term.depths}))

    def set_ema_model(self, ema_model: SiT) -> None:
        """Tell every signal the moving average."""
        for term in self.losses:
            term.set_ema_model(ema_model)

    def forward(self, batch: Batch, features: Mapping[int, Tensor]) -> LossOutput:
        """The weighted sum of the active terms."""
        total, cosines = (
            batch.t_B.new_zeros((), dtype=torch.float32),
            [batch.t_B.new_zeros(0, dtype=torch.float32)],
        )
        for term in self.losses:
            if term.is_active(batch.step):
                output = term(batch, features)
                total = total + term.weight_at(batch.step) * output.loss
                cosines.append(output.cosine_similarity.detach().float())
            else:  # a head without a term takes part with zero gradients, so that every process reduces the same buckets
                total = sum((0.0 * head.sum() for head in term.parameters()), total)
        return LossOutput(total, torch.cat(cosines))

    def drop_idle_gradients(self, step: int) -> None:
        """Take the heads of signals that are over out of the optimizer's step: momentum must not move them either."""
        for term in self.losses:
            if not term.is_active(step):
                term.zero_grad(set_to_none=True)


def mean_squared_error_over_batch(prediction: Tensor, target: Tensor, batch_size: int) -> Tensor:
    """Per-sample mean squared errors of the selected rows, summed and divided by the size of the whole batch.

    This is "multiply each sample's loss by 1 if t is in range, else 0, then average over the batch".
    """
    errors = (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
    return errors.sum() / batch_size


def token_cosines(prediction_BTD: Tensor, target_BTD: Tensor) -> Tensor:
    """Cosine similarity of each sample's tokens, averaged over them, in float32, (B,)."""
    return functional.cosine_similarity(prediction_BTD.float(), target_BTD.float(), dim=-1).mean(
        dim=1
    )


def detached_cosines(prediction_BTD: Tensor, target_BTD: Tensor) -> Tensor:
    """``token_cosines`` as a number to be logged, which no gradient goes through."""
    with torch.no_grad():
        return token_cosines(prediction_BTD, target_BTD)
