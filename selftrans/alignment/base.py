"""What trains beside denoising: batches, terms of the loss, their weighted sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from selftrans.alignment.method import AlignmentMethod
from selftrans.config import TimeMasking, TimeRangeConfig
from selftrans.data.store import FeatureStore
from selftrans.flow.interpolant import Interpolant
from selftrans.models.backbone import Backbone, BlockFeatures, Trunk
from selftrans.models.encoder import PatchEncoder
from selftrans.models.shape import BackboneShape


class TimeMask(NamedTuple):
    """What a range of times leaves of a term."""

    rows: Tensor | slice
    """The samples that it is computed of: the others contribute exactly zero."""
    factor: float
    """Factor of its mean over the batch."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch of noisy latents, with all that a method may need to know about it."""

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
    condition_B: Tensor
    """What each image shows: its class (B,), or the features of a caption (B, L, K)."""
    dropped_condition_B: Tensor
    """The same with some replaced by the null condition: what the student sees."""
    uniform_B: Tensor
    """A number in [0, 1) for each sample, for a method's own use."""
    encoder_features: Mapping[str, Tensor] = field(default_factory=dict)
    """Stored patch tokens of the clean images, (B, T', D'), by encoder."""
    images_BHWC: Tensor | None = None
    """The clean images in uint8, where a method requests them."""
    global_times: NDArray[np.float32] | None = None
    """The times of the whole global batch on the host, where a method requests them."""

    def time_mask(self, t_range: TimeRangeConfig, masking: TimeMasking) -> TimeMask:
        """What a range of times leaves of a term."""
        if masking == "released":
            assert self.global_times is not None
            return TimeMask(slice(None), float(_within(self.global_times, t_range).mean()))
        rows = torch.from_numpy(np.flatnonzero(_within(self.times, t_range)))
        return TimeMask(rows.to(self.t_B.device, non_blocking=True), 1.0)

    def unconditional(self, backbone: Trunk) -> Batch:
        """The same batch with the backbone's null condition for every sample."""
        null = backbone.null_condition(len(self.t_B))
        return replace(self, condition_B=null, dropped_condition_B=null)

    def noised(self, t_B: Tensor) -> Tensor:
        """The same latents and noise at other times, (B, C, H, W)."""
        return self.interpolant.noised(self.z_BCHW, self.eps_BCHW, t_B.reshape(-1, 1, 1, 1))


def _within(times: NDArray[np.float32], t_range: TimeRangeConfig) -> NDArray[np.bool_]:
    return (times >= t_range.low) & (times <= t_range.high)


class LossOutput(NamedTuple):
    """What a term evaluates to on a micro-batch."""

    loss: Tensor
    """Averaged over the whole micro-batch: a scalar in float32."""
    cosine_similarity: Tensor
    """Of prediction and guiding feature, for each sample that counts; for logging."""


class GuidingFeatures(NamedTuple):
    """What a term follows on a batch, (B, T, D') by name."""

    conditional: Mapping[str, Tensor]
    """With the true conditions; empty where they do not depend on the condition."""
    unconditional: Mapping[str, Tensor]
    """Without condition."""


@dataclass(frozen=True, kw_only=True)
class AlignmentInputs:
    """What a term is built from, beside its keys."""

    shape: BackboneShape
    """The student's."""
    teacher: Trunk | None = None
    """The frozen teacher, for a method that follows one."""
    encoder: FeatureStore | PatchEncoder | None = None
    """The encoder's stored features, or the encoder itself, for a method that follows one."""


class AlignmentLoss(nn.Module):
    """One term of the loss: a method with its heads and with what it follows.

    Args:
        method: keys and formula.
        inputs: what it follows.
    """

    def __init__(self, method: AlignmentMethod, inputs: AlignmentInputs) -> None:
        super().__init__()
        self.method = method
        self.heads = nn.ModuleDict(dict(method.build_heads(inputs)))
        # In tuples, so that they are no submodules: not trained, not saved, never in training mode.
        self._inputs = (inputs,)
        self._ema_model: tuple[Backbone, ...] = ()

    @property
    def shape(self) -> BackboneShape:
        """The student's shape."""
        return self._inputs[0].shape

    @property
    def teacher(self) -> Trunk:
        """The frozen teacher, cut at the block that is followed."""
        (inputs,) = self._inputs
        assert inputs.teacher is not None
        return inputs.teacher

    @property
    def encoder(self) -> FeatureStore | PatchEncoder:
        """The encoder, or its stored features."""
        (inputs,) = self._inputs
        assert inputs.encoder is not None
        return inputs.encoder

    @property
    def ema_model(self) -> Backbone:
        """The moving average of the model's weights, which changes as they do."""
        (ema_model,) = self._ema_model
        return ema_model

    def set_ema_model(self, ema_model: Backbone) -> None:
        """Called once, before the first step."""
        self._ema_model = (ema_model,)

    def guiding_features(self, batch: Batch, features: Mapping[int, Tensor]) -> Tensor:
        """What the student's tokens follow, for every sample, (B, T, D'), without gradient."""
        return self.method.guiding_features(self, batch, features)

    def forward(self, batch: Batch, features: BlockFeatures) -> LossOutput:
        """The term; ``features[d]`` are the tokens (B, T, D) after student block d."""
        return self.method.compute_loss(self, batch, features)


class AlignmentLosses(nn.Module):
    """All terms of a run, by name: their weighted sum stands beside denoising in the loss."""

    def __init__(self, terms: Mapping[str, AlignmentLoss]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(dict(terms))

    def items(self) -> Iterator[tuple[str, AlignmentLoss]]:
        """Names and terms."""
        yield from zip(self.terms, self.values(), strict=True)

    def values(self) -> Iterator[AlignmentLoss]:
        """The terms."""
        for term in self.terms.values():
            assert isinstance(term, AlignmentLoss)
            yield term

    @property
    def need_global_times(self) -> bool:
        """Whether a term asks for the times of the whole global batch."""
        return any(term.method.needs_global_times for term in self.values())

    def depths(self, step: int) -> tuple[int, ...]:
        """Student blocks whose tokens are needed in that step."""
        active = (term.method for term in self.values() if term.method.is_active(step))
        return tuple(sorted({depth for method in active for depth in method.depths}))

    def set_ema_model(self, ema_model: Backbone) -> None:
        """Give every term the moving average."""
        for term in self.values():
            term.set_ema_model(ema_model)

    def forward(self, batch: Batch, features: BlockFeatures) -> LossOutput:
        """The weighted sum of the active terms, and all their cosines."""
        total = batch.t_B.new_zeros((), dtype=torch.float32)
        cosines = [batch.t_B.new_zeros(0, dtype=torch.float32)]
        for term in self.values():
            if term.method.is_active(batch.step):
                output = term(batch, features)
                total = total + term.method.weight_at(batch.step) * output.loss
                cosines.append(output.cosine_similarity.detach().float())
            else:  # zero gradients of idle heads: every process reduces the same buckets
                total = sum((0.0 * head.sum() for head in term.parameters()), total)
        return LossOutput(total, torch.cat(cosines))

    def drop_idle_gradients(self, step: int) -> None:
        """Take heads whose term is over out of the step: momentum must not move them either."""
        for term in self.values():
            if not term.method.is_active(step):
                term.zero_grad(set_to_none=True)


def mean_squared_error_over_batch(prediction: Tensor, target: Tensor, batch_size: int) -> Tensor:
    """Per-sample mean squared errors of the selected rows, summed, over the whole batch's size.

    This is "multiply each sample's loss by 1 if t is in range, else 0, then average over the
    batch".
    """
    errors = (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
    return errors.sum() / batch_size


def token_cosines(prediction_BTD: Tensor, target_BTD: Tensor) -> Tensor:
    """Cosine similarity of each sample's tokens, averaged over them, in float32, (B,)."""
    prediction, target = prediction_BTD.float(), target_BTD.float()
    return functional.cosine_similarity(prediction, target, dim=-1).mean(dim=1)


def detached_cosines(prediction_BTD: Tensor, target_BTD: Tensor) -> Tensor:
    """``token_cosines`` as a number to be logged, which no gradient goes through."""
    with torch.no_grad():
        return token_cosines(prediction_BTD, target_BTD)
