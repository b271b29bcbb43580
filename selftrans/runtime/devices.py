"""The device of a program, and the lease that keeps two programs of one machine off the same GPU.

A workflow only counts GPUs. The process that uses cards takes as many free ones as it was granted
by locking a file for each; the kernel drops the locks when the process ends, however it ends. Cards
that a scheduler assigns are used as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from selftrans.runtime.errors import Unavailable, shortened
from selftrans.runtime.logs import LOG

if TYPE_CHECKING:
    import torch

# Libraries check for a GPU while they are imported; through NVML the check does not start CUDA,
# which would read CUDA_VISIBLE_DEVICES before the lease has set it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

DeviceName = Literal["auto", "cpu", "cuda"]
"""What a command line may say of the device."""
SCHEDULERS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "SGE_TASK_ID")
_leases = ExitStack()  # held until the process ends


def granted_gpus(device: DeviceName, processes: int = 1) -> int:
    """GPUs that ``processes`` use: one each, or none.

    With ``auto``, one each where this machine has as many that torch can use, else none.
    """
    if device == "auto":
        device = "cuda" if len(visible_gpus()) >= processes and _torch_sees_gpus() else "cpu"
        LOG.info("--device auto: %s", device)
    return processes if device == "cuda" else 0


def _torch_sees_gpus() -> bool:
    """Whether torch's build and the driver fit; through NVML, so that CUDA does not start."""
    import torch

    return torch.cuda.is_available()


def claim_device(gpus: int) -> torch.device:
    """The device of a single process that was granted ``gpus`` cards (0 or 1); leases the card."""
    import torch  # a lease needs only the driver

    if gpus == 0:
        return torch.device("cpu")
    lease_gpus(1)
    require_gpu()
    allow_tf32(False)  # fp32 means fp32: features in TF32 are off by more than published digits
    return torch.device("cuda", 0)


def require_gpu() -> None:
    """Check that torch sees the GPU that was granted, and can use it.

    Raises:
        Unavailable: torch sees none, or the driver is too old for it.
    """
    import torch

    if not torch.cuda.is_available():
        raise Unavailable("--device: torch sees no GPU on this machine (allowed: cpu)")
    try:
        torch.cuda.init()  # NVML counts cards whatever the driver's age
    except RuntimeError as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise Unavailable(f"--device: torch cannot use the GPU: {reason} (allowed: cpu)") from None


def allow_tf32(allowed: bool) -> None:
    """Set whether GPUs may round factors of fp32 products to TF32; torch allows it for some."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """``allow_tf32`` for a while; afterwards it is as it was."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    allow_tf32(allowed)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def lease_gpus(count: int) -> None:
    """Take ``count`` free GPUs, waiting for them, and show only those to CUDA.

    To be called before CUDA starts. Where a scheduler has assigned exactly as many, or a launcher
    of ours has leased already, nothing is taken.

    Raises:
        Unavailable: the machine, or the user's ``CUDA_VISIBLE_DEVICES``, has fewer than ``count``.
    """
    if "SELFTRANS_LEASED" in os.environ:
        return
    devices = visible_gpus()
    if len(devices) == count and any(name in os.environ for name in SCHEDULERS):
        return
    if len(devices) < count:
        raise Unavailable(
            f"--device: {count} GPUs requested, {len(devices)} visible"
            f" ({', '.join(devices) or 'none'})"
        )
    leased = _acquire(devices, count, Path(tempfile.gettempdir()) / f"selftrans-gpus-{os.getuid()}")
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["SELFTRANS_LEASED"] = ",".join(leased)
    LOG.info("leased GPU %s", ", ".join(leased))


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use: the user's choice, else all of the driver's."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",") if name.strip()]
        return list(takewhile(lambda name: name != "-1", names))  # CUDA reads no further
    return _queried("index")


def gpu_names() -> list[str]:
    """What the driver calls this machine's GPUs."""
    return _queried("name")


def _queried(field: str) -> list[str]:
    """A field of every GPU of the driver's; none without a driver."""
    if shutil.which("nvidia-smi") is None:  # some containers have the cards without the program
        cards = sorted(Path("/dev").glob("nvidia[0-9]*")) if field == "index" else []
        return [str(number) for number in range(len(cards))]
    try:
        listed = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.strip() for line in listed.stdout.splitlines() if line.strip()]


def _acquire(
    devices: Sequence[str], count: int, directory: Path, poll_seconds: float = 2.0
) -> list[str]:
    """Lock ``count`` of ``devices``, all or none: two waiting programs never hold halves."""
    directory.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        with FileLock(directory / "all.lock"), ExitStack() as held:
            taken: list[str] = []
            for device in devices:
                lock = FileLock(directory / f"{device.replace('/', '_')}.lock")
                try:
                    held.enter_context(lock.acquire(timeout=0))
                except Timeout:
                    continue
                taken.append(device)
                if len(taken) == count:
                    _leases.push(held.pop_all())
                    return taken
        if not said:
            LOG.info("waiting for %d of %d GPUs: others have leased the rest", count, len(devices))
            said = True
        time.sleep(poll_seconds)
