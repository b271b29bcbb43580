"""The state in progress: all that is needed to resume, in a directory that no rule declares.

One file holds one step: ``step-00002000.safetensors`` with the weights, their average, the heads,
the optimizer's moments and the logged losses. Files are written whole or not at all, so a kill at
any moment leaves the older ones.
"""

import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import remove_stale_temp_files, write_json
from selftrans.runtime.logs import LOG
from selftrans.runtime.metadata import FileMetadata
from selftrans.training.definition import SAVING_FILE

_STATE_NAME = re.compile(r"step-(\d{8,})\.safetensors")
KEPT_IN_PROGRESS = 2
VISIBLE_SECONDS = 60.0  # within which a network file system shows a new file everywhere


class StateMetadata(FileMetadata):
    """Of a state file."""

    kind: ClassVar[str] = "state"
    layout: Literal[2]
    """Of the tensors' names. A state of another one cannot be used, and is trained again."""
    step: int
    fingerprint: str
    """Of the run's definition."""
    seconds: float
    """Time of the training up to this step, over all its attempts, by ``training_clock``."""
    scaler: dict[str, Any]
    """State of fp16's loss scale; empty for other precisions."""


LoadedState = tuple[int, dict[str, Tensor], StateMetadata]
"""Step, tensors and metadata of a state file."""


class StateDirectory:
    """States of one run.

    Args:
        directory: of the state files.
        fingerprint: of the run's definition; a state of another one is refused.
    """

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self.directory, self.fingerprint = directory, fingerprint

    def steps(self) -> list[int]:
        """Steps that have a state, ascending."""
        matches = (
            _STATE_NAME.fullmatch(path.name) for path in self.directory.glob("step-*.safetensors")
        )
        return sorted(int(match[1]) for match in matches if match)

    def beyond(self, step: int) -> bool:
        """Whether a later state than ``step`` exists."""
        return bool(self.steps()) and self.steps()[-1] > step

    def load_newest(self, until: int) -> LoadedState | None:
        """The newest sound state that is not past ``until``; None without one.

        Raises:
            UserError: a state belongs to another run.
        """
        for step in reversed([step for step in self.steps() if step <= until]):
            try:
                tensors, metadata = StateMetadata.load(self._path(step))
            except UserError as error:
                LOG.warning("passing over a state that cannot be used: %s", error)
                continue
            self._check(step, metadata)
            return step, tensors, metadata
        return None

    def load(self, step: int) -> LoadedState:
        """The state of a step that another process has seen.

        A network file system may show it later here.

        Raises:
            UserError: it does not appear, is damaged, or belongs to another run.
        """
        until = time.monotonic() + VISIBLE_SECONDS
        while step not in self.steps() and time.monotonic() < until:
            time.sleep(1.0)
        tensors, metadata = StateMetadata.load(self._path(step))
        self._check(step, metadata)
        return step, tensors, metadata

    def _check(self, step: int, metadata: StateMetadata) -> None:
        if metadata.fingerprint != self.fingerprint:
            raise UserError(f"{self._path(step)}: belongs to a run of another definition")

    def save(self, step: int, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> None:
        """Write the state of ``step``; ``fields`` are the rest of its metadata."""
        metadata = StateMetadata(layout=2, step=step, fingerprint=self.fingerprint, **fields)
        started = time.monotonic()
        metadata.save(self._path(step), tensors)
        # A scheduler that ends jobs has to warn them this long in advance.
        write_json(self.directory / SAVING_FILE, {"seconds": round(time.monotonic() - started, 1)})

    def prune(self, now: int, milestones: Collection[int]) -> None:
        """Keep the milestones, the newest two states up to ``now``, and any beyond ``now``."""
        remove_stale_temp_files(self.directory)
        past = [step for step in self.steps() if step <= now]
        for step in past[:-KEPT_IN_PROGRESS]:
            if step not in milestones:
                self._path(step).unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:08}.safetensors"
