"""Velocity, losses and gradients of every backbone and method, and samples, against the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from selftrans.alignment.base import Batch
from selftrans.config import AlignmentConfig, BackboneConfig, Precision, SamplerConfig
from selftrans.gpu_check.cases import (
    methods,
    random_backbone,
    random_batch,
    random_condition,
    training_model,
)
from selftrans.gpu_check.checks import Check, Finding, NotRun, within
from selftrans.gpu_check.trainings import determinism_restored
from selftrans.gpu_check.workbench import Workbench
from selftrans.runtime.devices import tf32_allowed
from selftrans.runtime.tensors import DTYPES
from selftrans.sampling.latents import SampleNoise, sample_latents
from selftrans.training.model import TrainingModel
from selftrans.training.precision import MixedPrecision

Arithmetic = Literal["fp32", "tf32", "bf16", "fp16"]
ROUNDING: Mapping[Arithmetic, float] = {
    "fp32": 2.0**-24,
    "tf32": 2.0**-11,
    "bf16": 2.0**-8,
    "fp16": 2.0**-11,
}
"""Largest relative error of rounding a number."""
ROUNDINGS: Mapping[str, float] = {
    "velocity": 8,
    "denoising": 2,
    "alignment": 8,
    "gradient": 16,
    "alignment gradient": 16,
    "latents": 16,
}
"""Tolerated relative errors, in roundings."""
SUMS = 8
"""Times as many in fp32, where sums of thousands of products round as coarsely as their factors."""
CPU = torch.device("cpu")
TOLERANCE = (
    "Norms of differences over norms (of losses below 1, over 1), in units of the largest relative"
    " error of one rounding: 2^-24 in fp32, 2^-11 in TF32 and fp16, 2^-8 in bf16. Roundings of a"
    " dozen blocks add up like a random walk. Measured on a CPU against float64, SiT-B/2: velocity"
    " and gradient 1.4 to 1.8 units in bf16 and fp16; 8 and 4 in fp32, where the sums of products"
    " are rounded as coarsely as their factors. Tolerated are 8 and 16 units, 8 times as many in"
    " fp32: that still tells fp32 from TF32. dopri5, whose steps follow from its error, may always"
    " differ by a tenth of its rtol."
)


class Computed(NamedTuple):
    """What a step computes, in float64."""

    velocity: Tensor
    denoising: Tensor
    alignment: Tensor
    gradient: Tensor
    """Of all parameters, one behind another."""
    alignment_gradient: Tensor
    """That of the alignment loss alone."""


def compute(model: TrainingModel, batch: Batch, arithmetic: Arithmetic) -> Computed:
    """Velocity, losses and the gradient of their sum, as a training computes them."""
    device = batch.t_B.device
    precision: Precision = "fp32" if arithmetic == "tf32" else arithmetic
    mixed = MixedPrecision(precision, device)
    model.train()
    with tf32_allowed(arithmetic == "tf32"):
        with torch.no_grad(), mixed.autocast():
            velocity, _ = model.backbone.with_features(
                batch.x_BCHW, batch.t_B, batch.dropped_condition_B, ()
            )
        with mixed.autocast():
            denoising, alignment, _ = model(batch)
        aligned = _gradient(model, mixed, alignment)
        whole = _gradient(model, mixed, denoising + alignment)
    velocity, denoising, alignment = (
        one.detach().double() for one in (velocity, denoising, alignment)
    )
    return Computed(velocity, denoising, alignment, whole, aligned)


def _gradient(model: TrainingModel, mixed: MixedPrecision, loss: Tensor) -> Tensor:
    """That of all parameters, scaled as fp16 needs it; zero where the loss does not reach."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    if not loss.requires_grad:  # no method
        return torch.zeros(1, dtype=torch.float64, device=loss.device)
    for _ in range(4):
        parts = torch.autograd.grad(
            mixed.scaler.scale(loss), parameters, retain_graph=True, allow_unused=True
        )
        scale = mixed.scaler.get_scale()
        gradient = torch.cat(
            [
                (torch.zeros_like(one) if part is None else part / scale).flatten().double()
                for one, part in zip(parameters, parts, strict=True)
            ]
        )
        if bool(gradient.isfinite().all()):
            break
        mixed.scaler.update(scale / 16)  # a training finds its scale likewise
    return gradient


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of a difference over the norm of what is expected; of numbers below 1, over 1."""
    norm = expected.norm()
    return float((found - expected).norm() / (norm if expected.ndim else norm.clamp(min=1)))


def tolerance(what: str, arithmetic: Arithmetic) -> float:
    """Tolerated relative error."""
    return ROUNDINGS[what] * ROUNDING[arithmetic] * (SUMS if arithmetic == "fp32" else 1)


class Comparison:
    """A backbone and a method on both sides; the CPU's is computed once."""

    def __init__(
        self, bench: Workbench, model: BackboneConfig, method: AlignmentConfig | None
    ) -> None:
        self._bench, self._model, self._method = bench, model, method
        self._expected: Computed | None = None
        self._trained: TrainingModel | None = None

    def _compute(self, model: TrainingModel, arithmetic: Arithmetic) -> Computed:
        sizes = self._bench.sizes
        device = next(model.parameters()).device
        batch = random_batch(sizes, self._model, device, sizes.compared_batch, tokens=True)
        return compute(model, batch, arithmetic)

    def _build(self, device: torch.device) -> TrainingModel:
        return training_model(self._model, self._method, self._bench.sizes, device)

    def find(self, arithmetic: Arithmetic) -> Finding:
        """The errors in an arithmetic; the last one drops the network."""
        if self._bench.on_gpu and arithmetic == "bf16":
            require_bf16()
        if self._trained is None or self._expected is None:
            on_host = self._compute(self._build(CPU), "fp32")
            self._expected = Computed(*(one.to(self._bench.device) for one in on_host))
            # Built anew: what a method follows is no part of what `to` moves.
            self._trained = self._build(self._bench.device)
        expected = self._expected
        try:
            # In fp32 with the kernels that trainings take by default: that each method has them.
            with determinism_restored():
                torch.use_deterministic_algorithms(arithmetic == "fp32")
                found = self._compute(self._trained, arithmetic)
        finally:
            if arithmetic == [*ROUNDING][-1]:
                self._trained = self._expected = None
        names = [name for name in Computed._fields if self._method or "alignment" not in name]
        errors = {
            name.replace("_", " "): relative(getattr(found, name), getattr(expected, name))
            for name in names
        }
        return within(errors, {name: tolerance(name, arithmetic) for name in errors})


def require_bf16() -> None:
    """Check that the GPU computes in bf16.

    Raises:
        NotRun: it does not.
    """
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise NotRun("the card has no bf16")


def losses(bench: Workbench) -> Iterator[Check]:
    """Velocity, losses and gradient of every backbone and method in every arithmetic."""
    for backbone, model in bench.sizes.compared.items():
        for name, method in methods(model.depth, bench.sizes.projector_width).items():
            if method is not None and method.needs_sit and model.condition != "class":
                continue
            comparison = Comparison(bench, model, method)
            for arithmetic in ROUNDING:
                label = f"{backbone}, {name}, {arithmetic}"
                yield Check(label, partial(comparison.find, arithmetic))


SAMPLERS: Mapping[str, Mapping[str, Any]] = {
    "euler": {},
    "heun": {},
    "euler-maruyama": {},
    "dopri5": {"num_steps": 200, "rtol": 1e-3, "atol": 1e-6, "guidance": {"scale": 1.8}},
}
"""With what differs from the settings of ``_sampled``. The adaptive one is guided at all times: at
the end of an interval the velocity jumps, and a rounding decides which steps are tried there."""
SampledArithmetic = Literal["fp32", "tf32", "bf16"]


def samples(bench: Workbench) -> Iterator[Check]:
    """Latents of every sampler, guided, in every arithmetic that samplers have."""
    for backbone, model in bench.sizes.compared.items():
        for sampler in SAMPLERS:
            expected: list[Tensor] = []
            for arithmetic in get_args(SampledArithmetic):
                find = partial(_find_samples, bench, model, sampler, arithmetic, expected)
                yield Check(f"{backbone}, {sampler}, {arithmetic}", find)


def _find_samples(
    bench: Workbench,
    model: BackboneConfig,
    sampler: str,
    arithmetic: SampledArithmetic,
    expected: list[Tensor],
) -> Finding:
    if bench.on_gpu and arithmetic == "bf16":
        require_bf16()
    if not expected:
        expected.append(_sampled(bench, model, sampler, "fp32", CPU))
    found = _sampled(bench, model, sampler, arithmetic, bench.device)
    error = relative(found, expected[0])
    allowed = max(tolerance("latents", arithmetic), SAMPLERS[sampler].get("rtol", 0) / 10)
    return within({"latents": error}, {"latents": allowed})


def _sampled(
    bench: Workbench, model: BackboneConfig, sampler: str, arithmetic: str, device: torch.device
) -> Tensor:
    sizes = bench.sizes
    settings = SamplerConfig.model_validate(
        {
            "sampler": sampler,
            "num_steps": sizes.compared_steps,
            "guidance": {"scale": 1.8, "high": 0.7},
            "precision": arithmetic,
            **SAMPLERS[sampler],
        }
    )
    backbone = random_backbone(model, sizes, device).to(DTYPES.get(arithmetic, torch.float32))
    condition = random_condition(sizes, model, sizes.sampled, device)
    noise = SampleNoise(0, range(sizes.sampled), sizes.latent_shape, device)
    with tf32_allowed(arithmetic == "tf32"):
        latents = sample_latents(backbone, settings, condition, noise, backbone.null_condition(1))
    return latents.cpu()


def numerics(bench: Workbench) -> Iterator[Check]:
    """All of them; trainings first, if the time does not last for both."""
    yield from losses(bench)
    yield from samples(bench)
