"""What each method costs, and what it would cost without its saving."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Result, faster, interleaved
from benchmarks.training import BATCH, LATENT, randomised, stage_2_batch, stage_2_models, step_of
from selftrans.alignment.base import Batch
from selftrans.alignment.dispersive import Dispersive
from selftrans.alignment.haste import Haste
from selftrans.alignment.internal_guidance import InternalGuidance
from selftrans.alignment.layersync import LayerSync
from selftrans.alignment.registry import build_alignment_losses
from selftrans.alignment.repa import Repa
from selftrans.alignment.sra import Sra
from selftrans.alignment.vae_alignment import VaeAlignment
from selftrans.alignment.vae_repa import VaeRepa
from selftrans.config import (
    AlignmentConfig,
    BackboneConfig,
)
from selftrans.models.encoder import EncoderMetadata, PatchEncoder, build_network
from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT
from selftrans.training.model import TrainingModel

REPETITIONS = 3
SHAPE = SiTShape.of(
    BackboneConfig.from_preset("SiT-S/2"), LATENT, 1000
)  # the depth of B/2 at half its width
ENCODER = {"model_name": "vit_base_patch14_dinov2", "img_size": 224}
MEAN = (0.5, 0.5, 0.5)


class StoredTokens:
    """A stand-in for a store of DINOv2 ViT-B's features."""

    grid_size, hidden_size, name, stand_in = 16, 768, "dinov2", False


def model_of(method: AlignmentConfig | None = None, **inputs: Any) -> TrainingModel:
    """A model of random weights with this method, which has a copy of it as its EMA model."""
    methods = {} if method is None else {method.method: method}
    backbone = SiT(SHAPE)
    if method is not None and method.intermediate_depth is not None:
        backbone.add_intermediate_layer(method.intermediate_depth)
    model = randomised(TrainingModel(backbone, build_alignment_losses(methods, SHAPE, **inputs)))
    assert isinstance(model, TrainingModel)
    average = randomised(SiT(SHAPE)).requires_grad_(False).eval()
    assert isinstance(average, SiT)
    model.alignment.set_ema_model(average)
    return model


def loss_of(model: TrainingModel, batch: Batch) -> Callable[[], Tensor]:
    """L = L_denoise + L_alignment."""

    def loss() -> Tensor:
        denoising, alignment, _ = model(batch)
        return denoising + alignment

    return loss


def run_behind(average: SiT, batch: Batch, depth: int) -> Tensor:
    """What SRA's published code also runs of the average model.

    These are the blocks behind ``depth`` and the output layer.
    """
    embedding_BD = average.embedding(batch.t_B, batch.condition_B)
    x_BTD = average.x_embedder(batch.x_BCHW) + average.pos_embed
    for block in average.blocks[depth:]:
        x_BTD = block(x_BTD, embedding_BD)
    return average.final_layer(x_BTD, embedding_BD)


def methods() -> Iterator[Result]:
    """Forward and backward pass of every method over plain SiT's.

    SRA and REPA are also compared with the arithmetic without saving.
    """
    tokens = torch.randn(BATCH, 256, 768).half()
    images = torch.randint(0, 256, (BATCH, 256, 256, 3), dtype=torch.uint8)
    batch = replace(stage_2_batch(), encoder_features={"dinov2": tokens}, images_BHWC=images)
    metadata = EncoderMetadata(
        name="dinov2", stand_in=False, input_size=224, mean=MEAN, std=MEAN, architecture=ENCODER
    )
    encoder = PatchEncoder(build_network(ENCODER).eval(), metadata)
    stage_2, _ = stage_2_models()
    repa = Repa(method="repa", encoder="dinov2", depth=4)
    irepa = repa.model_copy(
        update={"projector": "convolution", "target_normalization": "over-tokens"}
    )
    haste = Haste(method="haste", encoder="dinov2", depth=4, attention_depths=(1, 2, 3, 4))
    sra = Sra.model_validate({"method": "sra", "student_depth": 4, "teacher_depth": 8})
    models = {
        "sit": model_of(),
        "vae-alignment": model_of(VaeAlignment(method="vae-alignment", depth=2)),
        "self-transcendence": stage_2,
        "repa": model_of(repa, encoders={"dinov2": StoredTokens()}),
        "sra": model_of(sra),
        "layersync": model_of(LayerSync(method="layersync", student_depth=4, teacher_depth=8)),
        "irepa": model_of(irepa, encoders={"dinov2": StoredTokens()}),
        "haste": model_of(haste, encoders={"dinov2": encoder}),
        "vae-repa": model_of(VaeRepa(method="vae-repa", depth=2)),
        "internal-guidance": model_of(InternalGuidance(method="internal-guidance", depth=4)),
        "dispersive": model_of(Dispersive(method="dispersive", depth=3, group_size=BATCH)),
    }
    sides = [step_of(model, loss_of(model, batch)) for model in models.values()]
    plain, *others = interleaved(*sides, repetitions=REPETITIONS)
    for name, seconds in zip(list(models)[1:], others, strict=True):
        yield Result(
            name=f"step_{name}", ours=seconds, baseline=plain, ratio=plain / seconds, unit="s",
            sides=(seconds, plain),
            note="a step of this method; baseline: plain SiT's; "
            f"S/2 width, batch {BATCH}, 3 in range",
        )  # fmt: skip

    yield from _savings(models, batch, sra, repa, encoder)


def _savings(
    models: dict[str, TrainingModel], batch: Batch, sra: Sra, repa: Repa, encoder: PatchEncoder
) -> Iterator[Result]:
    """Ours against the published arithmetic.

    SRA: the whole average model. REPA: the encoder at every step.
    """
    ours = loss_of(models["sra"], batch)
    average = randomised(SiT(SHAPE)).requires_grad_(False)

    def published() -> Tensor:
        with torch.no_grad():
            run_behind(average, batch, sra.teacher_depth)
        return ours()

    yield faster(
        "sra_step", step_of(models["sra"], ours), step_of(models["sra"], published),
        "the average runs to block 8 of 12, against all of it", repetitions=REPETITIONS,
    )  # fmt: skip
    live = model_of(repa.model_copy(update={"features": "images"}), encoders={"dinov2": encoder})
    yield faster(
        "repa_step", step_of(models["repa"], loss_of(models["repa"], batch)),
        step_of(live, loss_of(live, batch)),
        "stored features, against DINOv2 ViT-B on the images at every step",
        repetitions=REPETITIONS,
    )  # fmt: skip
