"""Networks with random weights, and batches, the same on every device."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selftrans.alignment.base import Batch
from selftrans.alignment.registry import build_alignment_losses
from selftrans.config import (
    AlignmentConfig,
    BackboneConfig,
    ConditionSize,
    TrainedEncoderConfig,
)
from selftrans.config.alignment import method_class
from selftrans.data.store import FeatureStore
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.gpu_check.sizes import Sizes
from selftrans.models.backbone import Backbone
from selftrans.models.build import build_backbone
from selftrans.models.encoder import (
    EncoderMetadata,
    PatchEncoder,
    build_network,
    stand_in_architecture,
)
from selftrans.models.sit import SiT
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
        "iREPA": {
            "method": "repa",
            "encoder": StoredTokens.name,
            "depth": shallow,
            "projector": "convolution",
            "target_normalization": "over-tokens",
        },
        "SRA": {"method": "sra", **both},
        "LayerSync": {"method": "layersync", **both},
        "VAE-REPA": {"method": "vae-repa", "depth": shallow, **head},
        "Dispersive": {"method": "dispersive", "depth": shallow, "group_size": 2},
        "Internal Guidance": {"method": "internal-guidance", "depth": shallow},
        "HASTE": {
            "method": "haste",
            "encoder": StoredTokens.name,
            "depth": shallow,
            "attention_depths": (shallow,),
            **head,
        },
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
) -> Backbone:
    """A backbone of random weights that is not trained."""
    return random_network(model, sizes, seed).requires_grad_(False).eval().to(device)


def random_network(
    model: BackboneConfig, sizes: Sizes, seed: int, method: AlignmentConfig | None = None
) -> Backbone:
    """A backbone of random weights, with the second output layer that a method trains."""
    condition = sizes.condition_of(model)
    if method is None or method.intermediate_depth is None:
        return copy.deepcopy(_drawn(model, sizes.latent_shape, condition, seed))
    backbone = build_backbone(model, sizes.latent_shape, condition)
    assert isinstance(backbone, SiT)
    backbone.add_intermediate_layer(method.intermediate_depth)
    return randomised(backbone, seed)


@lru_cache(maxsize=3)  # the trained one, its average, a teacher: every method has the same
def _drawn(
    model: BackboneConfig, latent_shape: tuple[int, int, int], condition: ConditionSize, seed: int
) -> Backbone:
    return randomised(build_backbone(model, latent_shape, condition), seed)


def fresh_backbone(
    model: BackboneConfig, sizes: Sizes, device: torch.device, seed: int = 0
) -> Backbone:
    """A backbone as a training begins with it, made on the device: enough where time counts."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), device:
        torch.manual_seed(seed)
        return build_backbone(model, sizes.latent_shape, sizes.condition_of(model))


def random_encoder(model: BackboneConfig, sizes: Sizes, device: torch.device) -> PatchEncoder:
    """A small vision transformer of random weights, on the grid of a backbone's tokens."""
    side = sizes.latent_shape[1] // model.patch_size
    settings = TrainedEncoderConfig(
        kind="trained", patch_size=sizes.image_size // side, depth=2, hidden_size=24, num_heads=2
    )
    architecture = stand_in_architecture(settings, sizes.image_size)
    network = randomised(build_network(architecture), 4).requires_grad_(False).eval().to(device)
    metadata = EncoderMetadata(
        name=StoredTokens.name,
        stand_in=True,
        input_size=sizes.image_size,
        architecture=architecture,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return PatchEncoder(network, metadata)


def random_condition(
    sizes: Sizes, model: BackboneConfig, count: int, device: torch.device, seed: int = 5
) -> torch.Tensor:
    """Classes, or features of captions, whichever a backbone takes."""
    return torch.from_numpy(_conditions(sizes, model, count, seed)).to(device)


def _conditions(sizes: Sizes, model: BackboneConfig, count: int, seed: int) -> NDArray[Any]:
    shape = sizes.condition_of(model)
    if isinstance(shape, int):
        return np.arange(count) % shape
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float16)


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
        fresh: whether the weights are those of a new training. The EMA model is then the caller's.
    """

    def network(
        settings: BackboneConfig, seed: int, trained: AlignmentConfig | None = None
    ) -> Backbone:
        if fresh:
            return fresh_backbone(settings, sizes, device, seed)
        return random_network(settings, sizes, seed, trained).to(device)

    backbone = network(model, 0, method)
    terms = {} if method is None else {"term": method}
    teachers = {}
    if method is not None and method.frozen_teacher:
        cut = model.model_copy(update={"depth": method.frozen_teacher.depth})
        teachers["term"] = network(cut, 1).requires_grad_(False).eval()
    encoder: FeatureStore | PatchEncoder = cast("FeatureStore", StoredTokens(*sizes.encoder))
    if method is not None and method.encoder_use and method.encoder_use.features == "images":
        encoder = random_encoder(model, sizes, device)
    followed = {StoredTokens.name: encoder}
    alignment = build_alignment_losses(terms, backbone.shape, teachers, followed)
    randomised(alignment, 3)
    whole = TrainingModel(backbone, alignment).to(device)
    if not fresh:
        whole.alignment.set_ema_model(random_backbone(model, sizes, device, seed=2))
    return whole


def random_batch(
    sizes: Sizes,
    model: BackboneConfig,
    device: torch.device,
    size: int,
    in_range: int | None = None,
    seed: int = 0,
    *,
    tokens: bool = False,
) -> Batch:
    """Noisy latents with conditions and, if requested, images and an encoder's tokens.

    ``in_range`` of the times (30 %) are in 0.4 to 0.7.
    """
    rng = np.random.default_rng(seed)
    inside = round(0.3 * size) if in_range is None else in_range
    times = np.concatenate([rng.uniform(0.41, 0.69, inside), rng.uniform(0.71, 1, size - inside)])
    times, shape = times.astype(np.float32), (size, *sizes.latent_shape)
    conditions = _conditions(sizes, model, size, seed)
    null = np.zeros_like(conditions[:1])
    if conditions.ndim == 1:
        null[:] = sizes.num_classes
    dropped = (np.arange(size) % 10 == 1).reshape(-1, *[1] * (conditions.ndim - 1))
    features, images = {}, None
    if tokens:
        side = sizes.image_size
        images = rng.integers(0, 256, (size, side, side, 3), np.uint8)
        shape_BTD = (size, sizes.encoder[0] ** 2, sizes.encoder[1])
        features[StoredTokens.name] = rng.standard_normal(shape_BTD).astype(np.float16)
    host = HostBatch(
        step=0,
        interpolant=INTERPOLANTS["linear"],
        z=rng.standard_normal(shape).astype(np.float32),
        eps=rng.standard_normal(shape).astype(np.float32),
        times=times,
        condition=conditions,
        dropped_condition=np.where(dropped, null, conditions),
        uniform=rng.random(size).astype(np.float32),
        encoder_features=features,
        images=images,
        global_times=times,
    )
    return host.to(device)
