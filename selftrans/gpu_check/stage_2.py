"""The stage-2 step against the plain arithmetic of the authors' code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor

from selftrans.alignment.base import Batch
from selftrans.alignment.self_transcendence import SelfTranscendence
from selftrans.config import BackboneConfig, Precision
from selftrans.gpu_check.cases import methods, random_batch, training_model
from selftrans.gpu_check.checks import Check, Finding
from selftrans.gpu_check.numerics import ROUNDING, require_bf16
from selftrans.gpu_check.sizes import Sizes
from selftrans.gpu_check.workbench import Workbench
from selftrans.models.sit import SiTTrunk
from selftrans.training.model import TrainingModel
from selftrans.training.precision import MixedPrecision

ROUNDINGS: Mapping[Precision, float] = {"fp32": 256, "bf16": 8}
"""Tolerated relative difference of the losses, in roundings."""
TOLERANCE = (
    "Both sides have one loss, within 256 roundings of fp32 (2^-24) or 8 of bf16 (2^-8): they sum"
    " it in another order, and guided features are differences times a scale."
)


def our_loss(student: TrainingModel, batch: Batch) -> Tensor:
    """Teacher and projector for the samples that count: those in range, or all of them."""
    denoising, alignment, _ = student(batch)
    return denoising + alignment


def plain_loss(student: TrainingModel, teacher: SiTTrunk, batch: Batch) -> Tensor:
    """The same loss without saving anything.

    The teacher with and without label and the projector see the whole batch; then comes a mask, of
    each sample or, as in the released code, of shape (B, 1, 1, 1) beside errors of shape (B).
    """
    (term,) = student.alignment.values()
    settings = term.method
    assert isinstance(settings, SelfTranscendence)
    depth, w = settings.student_depth, settings.guidance_scale
    velocity, features = student.backbone.with_features(
        batch.x_BCHW, batch.t_B, batch.dropped_condition_B, (depth,)
    )
    with torch.no_grad():
        f_c = teacher.tokens(batch.x_BCHW, batch.t_B, batch.condition_B)
        f_u = teacher.tokens(batch.x_BCHW, batch.t_B, teacher.null_condition(len(batch.t_B)))
    errors = (
        (term.heads["projector"](features[depth]) - (f_u + w * (f_c - f_u))).square().mean((1, 2))
    )
    mask = (batch.t_B >= settings.t_range.low) & (batch.t_B <= settings.t_range.high)
    if settings.t_masking == "released":
        mask = mask.view(-1, 1, 1, 1)
    return (velocity - batch.velocity_BCHW).square().mean() + settings.weight * (
        errors * mask
    ).mean()


def timed_sit(sizes: Sizes) -> tuple[str, BackboneConfig]:
    """The first timed SiT: the authors' class-conditional code is what it is compared with."""
    return next(one for one in sizes.timed.items() if one[1].condition == "class")


def find_stage_2(
    bench: Workbench, model: BackboneConfig, name: str, precision: Precision
) -> Finding:
    """Both losses, and how long a forward and backward pass of each takes."""
    if bench.on_gpu and precision == "bf16":
        require_bf16()
    sizes = bench.sizes
    method = methods(model.depth, sizes.projector_width)[name]
    student = training_model(model, method, sizes, bench.device)
    (term,) = student.alignment.values()
    batch = random_batch(sizes, model, bench.device, sizes.timed_batch)
    mixed = MixedPrecision(precision, bench.device)

    def step(loss: Callable[[], Tensor]) -> Tensor:
        student.zero_grad(set_to_none=True)
        with mixed.autocast():
            found = loss()
        found.backward()
        return found.detach()

    ours = partial(step, partial(our_loss, student, batch))
    plain = partial(step, partial(plain_loss, student, cast("SiTTrunk", term.teacher), batch))
    difference = abs(float(ours()) / float(plain()) - 1)
    taken, theirs = bench.seconds(ours, plain)
    tolerance = ROUNDINGS[precision] * ROUNDING[precision]
    text = (
        f"{1000 * taken:.1f} ms, the plain arithmetic {1000 * theirs:.1f}:"
        f" {theirs / taken:.2f} times as fast; losses {difference:.1e} apart (≤ {tolerance:.1e})"
    )
    values = {"ours": taken, "plain": theirs, "ratio": theirs / taken, "difference": difference}
    return Finding(text, values, difference <= tolerance)


def stage_2(bench: Workbench) -> Iterator[Check]:
    """With the text's mask and with that of the released code, in fp32 and in bf16."""
    backbone, model = timed_sit(bench.sizes)
    for name in ("stage 2", "stage 2, released mask"):
        for precision in ROUNDINGS:
            find = partial(find_stage_2, bench, model, name, precision)
            yield Check(f"{backbone}, {name}, {precision}", find)
