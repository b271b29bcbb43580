"""Networks with random weights, and batches, the same on every device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn

from selftrans.alignment.base import Batch
from selftrans.alignment.registry import build_alignment_losses
from selftrans.config import AlignmentConfig, BackboneConfig
from selftrans.config.alignment import method_class
from selftrans.data.store import FeatureStore
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.gpu_check.sizes import Sizes
from selftrans.models.sit import SiT, build_backbone
from selftrans.training.batches import HostBatch
from selftrans.training.model import TrainingModel

M = TypeVar("M", bound=nn.Module)
GUIDANCE = 5.0
"""Scale of stage 2's guided features."""


@dataclass(frozen=True)
class StoredTokens:
    """What a method sees of a store of an encoder's features."""

    grid_size: int
    hidden_size: int
    name: str = "encoder"
    stand_in: bool = False


def methods(depth: int, projector_width: int) -> dict[str, AlignmentConfig | None]:
    """Every method for a backbone of so many blocks, by the name of its check."""
    shallow = depth // 2
    deep = max(shallow + 1, 2 * depth // 3)
    head = {"projector_width": projector_width}
    both = {"student_depth": shallow, "teacher_depth": deep}
    stage_2 = {
        "method": "self-transcendence",
        "teacher": {"run": "teacher", "step": 1},
        "guidance_scale": GUIDANCE,
        **both,
        **head,
    }
    keys: dict[str, Mapping[str, Any]] = {
        "stage 1": {"method": "vae-alignment", "depth": 2, **head},
        "stage 2": stage_2,
        "stage 2, released mask": {**stage_2, "t_masking": "released"},
        "REPA": {"method": "repa", "encoder": StoredTokens.name, "depth": shallow, **head},
        "SRA": {"method": "sra", **both},
        "LayerSync": {"method": "layersync", **both},
    }
    return {"plain": None} | {
        name: method_class(one["method"]).model_validate(one) for name, one in keys.items()
    }


def randomised(module: M, seed: int = 0) -> M:
    """Random weights everywhere: most gradients of a fresh adaLN-Zero model are zero.

    Maps keep the size of what they map; biases are small. Weights are drawn on the CPU, and so do
    not depend on the device that the module goes to.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                inputs = parameter[0].numel() if parameter.ndim > 1 else 2500
                parameter.copy_(inputs**-0.5 * torch.randn(parameter.shape, generator=rng))
    return module


def random_backbone(
    model: BackboneConfig, sizes: Sizes, device: torch.device, seed: int = 0
) -> SiT:
    """A backbone of random weights that is not trained."""
    backbone = randomised(build_backbone(model, sizes.latent_shape, sizes.num_classes), seed)
    return backbone.requires_grad_(False).eval().to(device)


def training_model(
    model: BackboneConfig,
    method: AlignmentConfig | None,
    sizes: Sizes,
    device: torch.device,
    *,
    fresh: bool = False,
) -> TrainingModel:
    """A backbone and a method, with all that it follows, of random weights.

    Args:
        model, method: which; None is plain SiT.
        sizes: of latents and of what is followed.
        device: where they are.
        fresh: whether the weights are those of a new training, made on the device: fast, and enough
            where only time counts. The EMA model is then the caller's.
    """

    def network(settings: BackboneConfig, seed: int) -> SiT:
        if not fresh:
            return random_backbone(settings, sizes, device, seed)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), device:
            torch.manual_seed(seed)
            return build_backbone(settings, sizes.latent_shape, sizes.num_classes)

    backbone = network(model, 0).requires_grad_(True)
    backbone.pos_embed.requires_grad_(False)
    terms = {} if method is None else {"term": method}
    teachers = {}
    if method is not None and method.frozen_teacher:
        cut = model.model_copy(update={"depth": method.frozen_teacher.depth})
        teachers["term"] = network(cut, 1).requires_grad_(False).eval()
    stored = cast("FeatureStore", StoredTokens(*sizes.encoder))
    alignment = build_alignment_losses(terms, backbone.shape, teachers, {StoredTokens.name: stored})
    randomised(alignment, 3)
    whole = TrainingModel(backbone, alignment).to(device)
    if not fresh:
        whole.alignment.set_ema_model(random_backbone(model, sizes, device, seed=2))
    return whole


def random_batch(
    sizes: Sizes,
    device: torch.device,
    size: int,
    in_range: int | None = None,
    seed: int = 0,
    *,
    tokens: bool = False,
) -> Batch:
    """Noisy latents with labels and, if requested, an encoder's tokens.

    ``in_range`` of the times (30 %) are in 0.4 to 0.7.
    """
    rng = np.random.default_rng(seed)
    inside = round(0.3 * size) if in_range is None else in_range
    times = np.concatenate([rng.uniform(0.41, 0.69, inside), rng.uniform(0.71, 1, size - inside)])
    times, shape = times.astype(np.float32), (size, *sizes.latent_shape)
    labels = np.arange(size) % sizes.num_classes
    features = {}
    if tokens:
        shape_BTD = (size, sizes.encoder[0] ** 2, sizes.encoder[1])
        features[StoredTokens.name] = rng.standard_normal(shape_BTD).astype(np.float16)
    host = HostBatch(
        step=0,
        interpolant=INTERPOLANTS["linear"],
        z=rng.standard_normal(shape).astype(np.float32),
        eps=rng.standard_normal(shape).astype(np.float32),
        times=times,
        labels=labels,
        dropped_labels=np.where(np.arange(size) % 10 == 1, sizes.num_classes, labels),
        uniform=rng.random(size).astype(np.float32),
        encoder_features=features,
        images=None,
        global_times=times,
    )
    return host.to(device)
