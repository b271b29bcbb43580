"""A torch profiler trace of one step of a training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from selftrans.runtime.files import atomic_path
from selftrans.runtime.logs import LOG

T = TypeVar("T")


def traced(
    batches: Iterable[T], first: int, step: int | None, directory: Path, device: torch.device
) -> Iterator[T]:
    """The same batches; while one of them is used, the profiler records.

    What is recorded begins with waiting for the batch and ends when the next one is requested.

    Args:
        batches: of the optimizer steps.
        first: steps that are done before them.
        step: the one that is traced, counted from 1; none, if it is None.
        directory: of the run; the trace is its ``profile/step-STEP.pt.trace.json.gz``, in Chrome's
            format.
        device: of the training.
    """
    iterator = iter(batches)
    if step is None or step <= first:
        yield from iterator
        return
    for _ in range(first + 1, step):
        if (batch := next(iterator, None)) is None:
            return
        yield batch
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize(device)
    with profile(activities=activities, record_shapes=True) as trace:
        if (batch := next(iterator, None)) is None:
            return
        yield batch
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    path = directory / "profile" / f"step-{step}.pt.trace.json.gz"
    with atomic_path(path) as temporary:
        trace.export_chrome_trace(str(temporary))
    LOG.info("%s: trace of step %d", path, step)
    yield from iterator
