"""What the files of trainings say: histories, times, digests, machines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from selftrans.evaluation.comparison import Curves
from selftrans.evaluation.tables import read_history, read_seconds
from selftrans.runs import read_runs
from selftrans.runtime.files import read_fields
from selftrans.runtime.headers import opened_tensors, read_metadata


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """A run and seed, as ``runs.json`` says where it lies."""

    run: str
    seed: int
    folder: Path
    steps: tuple[int, ...]
    imported: bool

    def checkpoint(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"checkpoints/{step}"

    def history(self) -> pd.DataFrame:
        """Everything that was logged."""
        return read_history(self.checkpoint(self.steps[-1]) / "history.csv")

    def seconds(self, step: int) -> float:
        """Time of the training up to a checkpoint."""
        return read_seconds(self.checkpoint(step) / "checkpoint.json")

    def record(self, step: int) -> dict[str, Any]:
        """What a checkpoint says about itself."""
        path = self.checkpoint(step) / "checkpoint.json"
        return read_fields(path, fingerprint=str, digests=dict)


def run_records(path: Path) -> list[ShownRun]:
    """The runs of a ``runs.json``, in the order of the experiment.

    Raises:
        UserError: it is absent, damaged, or of another format.
    """
    return [
        ShownRun(
            run=one.run,
            seed=one.seed,
            folder=Path(one.folder),
            steps=tuple(one.checkpoints),
            imported=one.imported,
        )
        for one in read_runs(path).runs
    ]


def wall_time(records: Sequence[ShownRun]) -> Curves:
    """Seconds of each training up to each checkpoint, by run, step and seed."""
    seconds: Curves = {}
    for one in records:
        if not one.imported:
            for step in one.steps:
                seconds.setdefault(one.run, {}).setdefault(step, {})[one.seed] = one.seconds(step)
    return seconds


def gpu_seconds(one: ShownRun) -> float | None:
    """Seconds times GPUs of a training, segment by segment; None if they were not recorded."""
    total, before = 0.0, 0.0
    for step in one.steps:
        machine = one.record(step).get("machine")
        if not isinstance(machine, Mapping) or not isinstance(machine.get("gpus"), int):
            return None
        seconds = one.seconds(step)
        total += machine["gpus"] * (seconds - before)
        before = seconds
    return total


def weights_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Number of parameters of a weight file and what it says about itself, read off its header.

    Raises:
        UserError: it is absent, or not a file of ours.
    """
    metadata = read_metadata(path, "weights")
    with opened_tensors(path, "np") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    return sum(map(math.prod, shapes)), metadata
