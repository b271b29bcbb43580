"""Gradient norms of the two parts of the loss: computed where a loss is logged, only logged."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from selftrans.alignment.base import Batch
from selftrans.models.backbone import Backbone
from selftrans.training.model import TrainingModel
from selftrans.training.precision import MixedPrecision


def alignment_gradient(
    model: TrainingModel,
    micro_batches: Sequence[Batch],
    mixed_precision: MixedPrecision,
    accelerator: Accelerator,
) -> list[Tensor | None]:
    """Gradient of L_alignment over the global batch with respect to the backbone's parameters.

    None for parameters behind the last block that it reaches. A separate forward and backward
    pass, up to that block, outside of distributed training.
    """
    parameters = _trained(model.backbone)
    total: list[Tensor | None] = [None] * len(parameters)
    if not (depths := model.alignment.depths(micro_batches[0].step)):
        return total
    for batch in micro_batches:
        with mixed_precision.autocast():
            features = model.backbone.features(
                batch.x_BCHW, batch.t_B, batch.dropped_condition_B, depths
            )
            term = model.alignment(batch, features).loss / len(micro_batches)
        parts = torch.autograd.grad(
            mixed_precision.scaler.scale(term), parameters, allow_unused=True
        )
        total = [_sum(before, part) for before, part in zip(total, parts, strict=True)]
    scale = mixed_precision.scaler.get_scale()
    return [part if part is None else accelerator.reduce(part, "mean") / scale for part in total]


def gradient_norms(backbone: Backbone, alignment: Sequence[Tensor | None]) -> tuple[float, float]:
    """Norms of the gradients of L_denoise and L_alignment with respect to the backbone.

    Args:
        backbone: holds the gradient of their sum, not yet clipped.
        alignment: that of L_alignment.
    """
    squares = torch.zeros(2, device=backbone.pos_embed.device)
    for parameter, part in zip(_trained(backbone), alignment, strict=True):
        whole = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        aligned = torch.zeros_like(whole) if part is None else part
        squares += torch.stack([(whole - aligned).square().sum(), aligned.square().sum()])
    denoising_norm, alignment_norm = squares.sqrt().tolist()
    return denoising_norm, alignment_norm


def _trained(backbone: Backbone) -> list[nn.Parameter]:
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


def _sum(before: Tensor | None, part: Tensor | None) -> Tensor | None:
    return before if part is None else part if before is None else before + part
