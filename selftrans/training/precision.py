"""Processes, device and arithmetic of a training."""

import os

import torch
from accelerate import Accelerator

from selftrans.config import Precision, TrainingConfig
from selftrans.runtime.devices import allow_tf32, require_gpu
from selftrans.runtime.tensors import DTYPES

BF16_CPU_HIDDEN_SIZE = 384
"""On a CPU autocast pays where matrix products outweigh the conversions: at this hidden size it
doubles the speed of a step, at 96 it gains nothing (benchmarks/README.md)."""


def make_accelerator(
    *, on_gpu: bool, tf32: bool = False, deterministic: bool = True
) -> Accelerator:
    """Accelerate on the granted GPUs, or on the CPU; precision is that of ``MixedPrecision``.

    Raises:
        Unavailable: a GPU was granted and torch sees none.
    """
    if on_gpu:
        require_gpu()
    allow_tf32(tf32)
    if on_gpu:
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # The backward pass of attention, for one, sums in any order, and goes on to do so where
        # torch may only warn.
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Accelerator(cpu=not on_gpu, mixed_precision="no")


def resolve_precision(
    training: TrainingConfig, hidden_size: int, device: torch.device
) -> Precision:
    """The precision that ``auto`` evaluates to for a backbone on ``device``.

    bf16 on a GPU that computes in it; on a CPU with bf16 instructions for backbones that are wide
    enough to gain by it; else fp32.
    """
    if training.precision != "auto":
        return training.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has_bf16() and hidden_size >= BF16_CPU_HIDDEN_SIZE else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware; else autocast is far slower than fp32."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


class MixedPrecision:
    """Autocast of the forward pass, and the loss scale of fp16.

    Without it, small gradients would be rounded to zero.

    Args:
        precision: fp32, bf16 or fp16.
        device: of the training.
    """

    MIN_SCALE = 1.0  # below, a gradient overflows even unscaled

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.precision = precision
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._device, self._dtype = device.type, DTYPES[precision]

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self._device, self._dtype, enabled=self.precision != "fp32")

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """One optimizer step on unscaled gradients; true where fp16 skipped it on overflow."""
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.MIN_SCALE <= self.scaler.get_scale() < before
