"""What a result was computed on, in words: recorded beside it, and no part of what it is."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def describe_machine(device: torch.device, processes: int) -> dict[str, Any]:
    """Host, system, processor and GPUs of a computation.

    Args:
        device: that of this process.
        processes: of the computation, each with a device of the same kind.
    """
    on_gpu = device.type == "cuda"
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "processes": processes,
        "gpus": processes if on_gpu else 0,
        "gpu": _gpu(device) if on_gpu else None,
    }


def granted_threads() -> int:
    """Threads that this process may use: ``OMP_NUM_THREADS``, else one for each of its cores."""
    set_by_user = os.environ.get("OMP_NUM_THREADS", "")
    return int(set_by_user) if set_by_user.isdecimal() else len(os.sched_getaffinity(0))


def peak_resident_bytes() -> int:
    """Largest memory of this process so far, as the system counts it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _gpu(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def _processor() -> str:
    """The processor's name; its architecture, where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*names, platform.processor()]), platform.machine())
