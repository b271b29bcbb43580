"""The cost of a training step.

Measured are what the text's mask saves, and how near the rest is to bare matrix products.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from benchmarks.timing import Result, faster, interleaved, repeated
from selftrans.alignment.base import Batch
from selftrans.alignment.registry import build_alignment_losses
from selftrans.alignment.self_transcendence import SelfTranscendence
from selftrans.config import BackboneConfig, TeacherConfig, TimeMasking
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.gpu_check.stage_2 import our_loss, plain_loss
from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT, SiTTrunk
from selftrans.training.model import TrainingModel
from selftrans.training.precision import cpu_has_bf16

AnyModule = TypeVar("AnyModule", bound=nn.Module)
BATCH, IN_RANGE = 10, 3
LATENT = (4, 32, 32)


def randomised(module: AnyModule) -> AnyModule:
    """Random weights everywhere.

    A fresh adaLN-Zero model skips nothing here, but its gradients would be zeros.
    """
    for parameter in module.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.02)
    return module


def stage_2_batch(dtype: torch.dtype = torch.float32) -> Batch:
    """Noisy latents of ImageNet's shape, 30 % of them in 0.4..0.7."""
    rng = np.random.default_rng(0)
    times = np.concatenate(
        [rng.uniform(0.41, 0.69, IN_RANGE), rng.uniform(0.71, 1, BATCH - IN_RANGE)]
    )
    z, eps = torch.randn(BATCH, *LATENT, dtype=dtype), torch.randn(BATCH, *LATENT, dtype=dtype)
    t, path = torch.from_numpy(times).to(dtype), INTERPOLANTS["linear"]
    labels = torch.arange(BATCH)
    return Batch(
        step=0, interpolant=path, z_BCHW=z, eps_BCHW=eps,
        x_BCHW=path.noised(z, eps, t.reshape(-1, 1, 1, 1)),
        velocity_BCHW=path.velocity(z, eps, t.reshape(-1, 1, 1, 1)), t_B=t,
        times=times.astype(np.float32), condition_B=labels, dropped_condition_B=labels,
        uniform_B=torch.rand(BATCH, dtype=dtype), global_times=times.astype(np.float32),
    )  # fmt: skip


def stage_2_models(t_masking: TimeMasking = "per-sample") -> tuple[TrainingModel, SiTTrunk]:
    """Student and teacher at B/2's depths and S/2's width."""
    shape = SiTShape.of(BackboneConfig.from_preset("SiT-S/2"), LATENT, 1000)
    teacher = randomised(
        SiTTrunk(SiTShape.of(BackboneConfig.from_preset("SiT-S/2", depth=8), LATENT, 1000))
    )
    teacher.requires_grad_(False).eval()
    settings = SelfTranscendence(
        method="self-transcendence", teacher=TeacherConfig(run="t", step=1), student_depth=6,
        teacher_depth=8, guidance_scale=30.0, t_masking=t_masking,
    )  # fmt: skip
    student = randomised(
        TrainingModel(
            SiT(shape), build_alignment_losses({"stage 2": settings}, shape, {"stage 2": teacher})
        )
    )
    return student, teacher


def step_of(student: TrainingModel, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward and backward."""

    def step() -> None:
        student.zero_grad(set_to_none=True)
        loss().backward()

    return step


def under_bf16(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same under bf16 autocast."""

    def forward() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss()

    return forward


def stage_2() -> Iterator[Result]:
    """Our stage-2 step against the plain arithmetic, in fp32 and in the fastest precision."""
    student, teacher = stage_2_models()
    batch = stage_2_batch()
    ours = step_of(student, lambda: our_loss(student, batch))
    plain = step_of(student, lambda: plain_loss(student, teacher, batch))
    masking = f"S/2 width, batch {BATCH}, {IN_RANGE} in range, the text's mask: per sample"
    yield faster("stage2_step_fp32", ours, plain, masking)
    if cpu_has_bf16():
        fast, setting = (
            step_of(student, under_bf16(lambda: our_loss(student, batch))),
            "bf16 autocast",
        )
    else:
        fast, setting = ours, "fp32, since this CPU has no bf16 instructions"
    yield faster(
        "stage2_step",
        fast,
        plain,
        f"our fastest setting ({setting}) against the plain arithmetic in fp32; {masking}",
    )
    released, guide = stage_2_models("released")
    yield faster(
        "stage2_step_released",
        step_of(released, lambda: our_loss(released, batch)),
        step_of(released, lambda: plain_loss(released, guide, batch)),
        f"S/2 width, batch {BATCH}, the mask of the released code: nothing is saved",
    )


def teacher_precision() -> Iterator[Result]:
    """How far the teacher's features are from exact ones in bf16, and in fp32."""
    student, teacher = stage_2_models()
    batch, (term,) = stage_2_batch(), student.alignment.values()
    x, t, y = batch.x_BCHW, batch.t_B, batch.condition_B
    with torch.no_grad():
        exact = copy.deepcopy(teacher).double().tokens(x.double(), t.double(), y)
        in_fp32, in_bf16 = teacher.tokens(x, t, y), under_bf16(lambda: teacher.tokens(x, t, y))()
        guided = term.guiding_features(batch, {}).double()
        guided_bf16 = under_bf16(lambda: term.guiding_features(batch, {}))().double()
    errors = [float((found.double() - exact).norm() / exact.norm()) for found in (in_bf16, in_fp32)]
    yield Result(
        name="teacher_bf16_error", ours=errors[0], baseline=errors[1], ratio=errors[0] / errors[1],
        unit="relative",
        note="f_c after block 8 in bf16; baseline: in fp32; both against float64, random weights",
    )  # fmt: skip
    error = float((guided_bf16 - guided).norm() / guided.norm())
    yield Result(
        name="guided_features_bf16_error", ours=error, baseline=errors[0], ratio=error / errors[0],
        unit="relative", note="f_g at w = 30 in bf16 against fp32; baseline: that of f_c",
    )  # fmt: skip


def bf16_gain() -> Iterator[Result]:
    """Forward and backward in fp32 over the same in bf16 autocast, by width.

    This is the ratio by which `precision: auto` decides.
    """
    for width, heads in ((96, 4), (192, 6), (384, 6)):
        shape = SiTShape(
            latent_shape=LATENT,
            num_classes=1000,
            depth=4,
            hidden_size=width,
            num_heads=heads,
            patch_size=2,
        )
        model, batch = randomised(SiT(shape)), stage_2_batch()

        def loss(model: nn.Module = model, batch: Batch = batch) -> Tensor:
            return (
                (model(batch.x_BCHW, batch.t_B, batch.condition_B) - batch.velocity_BCHW)
                .square()
                .mean()
            )

        def step(forward: Callable[[], Tensor], model: nn.Module = model) -> None:
            model.zero_grad(set_to_none=True)
            forward().backward()

        yield faster(
            f"bf16_gain_width_{width}",
            partial(step, under_bf16(loss)),
            partial(step, loss),
            "against fp32, 4 blocks",
        )


def matmul_share() -> Iterator[Result]:
    """FLOP per second of forward and backward over that of bare products of equal shapes."""
    shape = SiTShape.of(BackboneConfig.from_preset("SiT-S/2"), LATENT, 1000)
    model = randomised(SiT(shape))
    batch = stage_2_batch()
    tokens, width = BATCH * shape.grid_size**2, shape.hidden_size
    layers = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    flops = 3 * shape.depth * sum(2 * tokens * i * o for i, o in layers)
    attention = 6 * shape.depth * 2 * 2 * tokens * shape.grid_size**2 * width / 2

    def loss() -> Tensor:
        velocity = model(batch.x_BCHW, batch.t_B, batch.condition_B)
        return (velocity - batch.velocity_BCHW).square().mean()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    def step_bf16() -> None:
        model.zero_grad(set_to_none=True)
        under_bf16(loss)().backward()

    for name, one, dtype in (("fp32", step, torch.float32), ("bf16", step_bf16, torch.bfloat16)):
        products = [
            repeated(shape.depth, product)
            for i, o in layers
            for product in products_of(
                *(torch.randn(*sizes).to(dtype) for sizes in ((tokens, i), (o, i), (tokens, o)))
            )
        ]
        seconds, *of_products = interleaved(one, *products)
        limit, rate = flops / sum(of_products), (flops + attention) / seconds
        yield Result(
            name=f"matmul_share_{name}", ours=rate / 1e9, baseline=limit / 1e9, ratio=rate / limit,
            unit="GFLOP/s", sides=(seconds, *of_products),
            note="S/2, forward and backward; baseline: the bare products of all linear layers, of"
            " inputs and of weights, each in its layout and in the same turns",
        )  # fmt: skip


def products_of(x: Tensor, weight: Tensor, gradient: Tensor) -> list[Callable[[], Tensor]]:
    """Products of a linear layer: forward, gradient of its input, gradient of its weight.

    Args:
        x: its input, (N, I).
        weight: (O, I).
        gradient: of its output, (N, O).
    """
    return [lambda: x @ weight.T, lambda: gradient @ weight, lambda: gradient.T @ x]


def optimizer_and_ema() -> Iterator[Result]:
    """AdamW and EMA against a loop over the parameters."""
    model = randomised(SiT(SiTShape.of(BackboneConfig.from_preset("SiT-S/2"), LATENT, 1000)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    average = copy.deepcopy(model).requires_grad_(False)
    update = get_ema_multi_avg_fn(0.9999)

    def ema_loop() -> None:
        with torch.no_grad():
            for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                mean.mul_(0.9999).add_(value, alpha=1 - 0.9999)

    def ema_ours() -> None:
        update(list(average.parameters()), list(model.parameters()), 1)

    yield faster("ema_step", ema_ours, ema_loop, "S/2, against mul_ and add_ per parameter")
    fused = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    loop = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, foreach=False, fused=False)
    yield faster(
        "optimizer_step", fused.step, loop.step, "S/2, fused AdamW against the loop per parameter"
    )
