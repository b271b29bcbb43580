"""The accelerator: processes, device and precision of a training."""

import torch
from accelerate import Accelerator

from selftrans.runtime.errors import UserError

ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16"}


def make_accelerator(precision: str, *, on_gpu: bool) -> Accelerator:
    """Accelerate on the granted GPUs, or on the CPU; ``auto`` is bf16 on a GPU that has it, else fp32.

    Raises:
        UserError: a GPU was granted and torch sees none.
    """
    if on_gpu and not torch.cuda.is_available():
        raise UserError("--gpus: torch sees no GPU on this machine (allowed: 0)")
    if precision == "auto":
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
    return Accelerator(cpu=not on_gpu, mixed_precision=ACCELERATE_NAMES[precision])
