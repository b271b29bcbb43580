"""What is trained: the backbone with its alignment losses, its optimizer, and one gradient."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from selftrans.alignment.base import AlignmentLosses, Batch
from selftrans.alignment.registry import build_alignment_losses
from selftrans.config import ExperimentConfig, TrainingConfig
from selftrans.data.store import FeatureStore, LatentStore
from selftrans.models.backbone import Backbone
from selftrans.models.build import build_backbone
from selftrans.models.encoder import PatchEncoder
from selftrans.models.sit import SiT
from selftrans.runtime.random import Stream, torch_seed
from selftrans.training.batches import BatchSource
from selftrans.training.inputs import Inputs
from selftrans.training.precision import MixedPrecision

if TYPE_CHECKING:
    from accelerate import Accelerator

CPU = torch.device("cpu")


class TrainingModel(nn.Module):
    """Backbone and alignment losses in one forward, as distributed data parallel needs them."""

    def __init__(self, backbone: Backbone, alignment: AlignmentLosses) -> None:
        super().__init__()
        self.backbone = backbone
        self.alignment = alignment

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """L_denoise, the weighted sum of the alignment losses, and cosine similarities.

        Both losses are means over the micro-batch, in float32; L is their sum. The cosines are
        those of prediction and guiding feature, (n,), of the samples that count.
        """
        depths = self.alignment.depths(batch.step)
        velocity, features = self.backbone.with_features(
            batch.x_BCHW, batch.t_B, batch.dropped_condition_B, depths
        )
        denoising = (velocity.float() - batch.velocity_BCHW).square().mean()
        return denoising, *self.alignment(batch, features)


def build_model(
    experiment: ExperimentConfig,
    run: str,
    store: LatentStore,
    seed: int,
    inputs: Inputs | None = None,
    device: torch.device = CPU,
) -> TrainingModel:
    """A fresh model with the run's alignment losses.

    The backbone is a function of the seed alone, the same for every run.

    Raises:
        UserError: an alignment loss lacks its teacher or encoder.
    """
    settings, latent_shape = experiment.runs[run], store.manifest.latent_shape
    inputs = inputs or Inputs()
    conditions = inputs.conditions(store)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, Stream.WEIGHTS))
        backbone = build_backbone(settings.model, latent_shape, conditions.size)
        backbone.set_null_condition(torch.from_numpy(conditions.null))
        if (depth := settings.intermediate_depth) is not None:
            assert isinstance(backbone, SiT)
            backbone.add_intermediate_layer(depth)
        encoders: dict[str, FeatureStore | PatchEncoder] = {**inputs.features, **inputs.encoders}
        alignment = build_alignment_losses(
            settings.alignments, backbone.shape, inputs.teachers, encoders
        )
        return TrainingModel(backbone, alignment).to(device)


def batch_source(
    store: LatentStore,
    training: TrainingConfig,
    seed: int,
    inputs: Inputs,
    alignment: AlignmentLosses,
) -> BatchSource:
    """The batches of a training, with all that its alignment losses read of them."""
    return BatchSource(
        store,
        training,
        seed,
        list(inputs.features.values()),
        inputs.images,
        with_global_times=alignment.need_global_times,
        conditions=inputs.conditions(store),
    )


def prepare_blocks(backbone: Backbone, training: TrainingConfig, backend: str = "inductor") -> None:
    """Let the blocks of the trained backbone run as the recipe says.

    Args:
        backbone: that is trained.
        training: the recipe.
        backend: of torch.compile.
    """
    backbone.activation_checkpointing = training.activation_checkpointing
    if training.compile:  # block by block: one small graph, compiled once
        # Data parallelism would cut each block's graph again, at the borders of its buckets.
        torch._dynamo.config.optimize_ddp = False
        for block in backbone.each_block:
            block.compile(backend=backend)


def build_optimizer(parameters: list[nn.Parameter], training: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with the recipe's settings, all parameters in one pass."""
    return torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        betas=training.betas,
        eps=training.eps,
        weight_decay=training.weight_decay,
        fused=True,
    )


class StepLosses(NamedTuple):
    """What one process's share of a global batch evaluates to; scalars on its device."""

    loss: Tensor
    """L = L_denoise + L_alignment, averaged over the share."""
    denoising: Tensor
    alignment: Tensor
    cosine_sum: Tensor
    """Sum of the cosine similarities of the samples that count."""
    cosine_count: Tensor
    """Number of those samples."""


def accumulate(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    mixed_precision: MixedPrecision,
    accelerator: Accelerator,
) -> StepLosses:
    """Add the gradient of L = L_denoise + L_alignment over one process's share of the batch."""
    losses = torch.zeros(3, device=accelerator.device)
    cosines = torch.zeros(2, device=accelerator.device)
    share = 1 / len(micro_batches)
    for batch in micro_batches:
        with contextlib.nullcontext() if batch is micro_batches[-1] else accelerator.no_sync(model):
            with mixed_precision.autocast():
                denoising, alignment, cosine = model(batch)
            loss = denoising + alignment
            mixed_precision.scaler.scale(share * loss).backward()
        losses += share * torch.stack([loss, denoising, alignment]).detach()
        cosines += torch.stack([cosine.sum(), cosine.new_full((), len(cosine))])
    return StepLosses(*losses, *cosines)


def settle(
    model: nn.Module,
    draw: Callable[[], Sequence[Batch]],
    mixed_precision: MixedPrecision,
    accelerator: Accelerator,
) -> None:
    """Let data parallelism find the order in which gradients are ready, before the first step.

    Its first pass adds gradients in other buckets than all later ones, and a sum over three or more
    processes depends on them: a training that resumes would compute its first step otherwise than
    one that went on. The gradient of this pass over the first batch is dropped.
    """
    if accelerator.num_processes > 1:
        accumulate(model, draw(), mixed_precision, accelerator)
        model.zero_grad(set_to_none=True)


def apply_gradient(
    model: TrainingModel,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    mixed_precision: MixedPrecision,
    step: int,
    training: TrainingConfig,
) -> Tensor | None:
    """One step of the optimizer along the unscaled gradient, which is used up.

    Args:
        model: backbone and heads, not wrapped.
        parameters: those that are trained.
        optimizer: of these.
        mixed_precision: its loss scale is updated.
        step: of the optimizer, counted from 0.
        training: norm that the gradient is clipped to, and the learning rate.

    Returns:
        The gradient's norm before clipping; None where fp16 skipped the step.
    """
    norm = clip_grad_norm_(parameters, training.clip_norm or math.inf)
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate_at(step)
    model.alignment.drop_idle_gradients(step)
    step_skipped = mixed_precision.step(optimizer)
    optimizer.zero_grad(set_to_none=True)
    return None if step_skipped else norm
