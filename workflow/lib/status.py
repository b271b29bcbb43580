"""How the runs of all experiments are doing, from files alone.

So also of trainings on a cluster, and from another machine that sees the results.
"""

import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from selftrans.runs import RUNS_FILE, RunRecord, TeacherRecord, read_runs
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields
from selftrans.runtime.lock import STALE_SECONDS, Owner, is_alive, read_owner
from workflow.lib import paths

State = Literal["finished", "training", "waiting", "failed", "stopped", "not started"]
PROGRESS = re.compile(
    r"^(?P<time>\S+ \S+) .*: (?P<step>\d+)/\d+ steps, (?P<rate>\S+) steps/s,"
    r"(?:.*, loss (?P<loss>\S+))?"
)
"""A line of a training's log."""
FAILURE = re.compile(r"([\d-]+ [\d:]+ )?(error|[\w.]*(Error|Exception)\b)")
"""How the last line of a failed attempt's log begins; a script's has the time in front."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How one run and seed is doing."""

    experiment: str
    run: str
    label: str
    seed: int
    state: State
    step: int
    """Steps that are trained, saved or not."""
    steps: int
    """Steps of the last checkpoint."""
    next_checkpoint: int | None
    loss: float | None
    steps_per_second: float | None
    images_per_second: float | None
    owner: str
    """Process, host and job that train it; empty without one."""
    heartbeat_age: float | None
    """Seconds since its owner was last heard of."""
    saved_age: float | None
    """Seconds since its last save."""
    seconds_left: float | None
    """Until its last checkpoint, what it waits for included; None where no pace is known."""
    fid: float | None
    """Newest, of the sampler that the figures show."""
    fid_step: int | None
    note: str
    """What it waits for, or why it failed."""


Known = Mapping[tuple[str, int], "_Seen"]
"""What was seen of an experiment's runs, by run and seed."""


def collect(root: Path) -> list[RunStatus]:
    """Every run and seed of every experiment below ``root``, in the order of the experiments.

    Raises:
        UserError: there are no results, or one of the lists of runs is damaged.
    """
    files = sorted(root.glob(paths.RUNS.format(experiment="*")))
    if not files:
        raise UserError(
            f"{root / 'results'}: holds no runs (looked for: {RUNS_FILE}, which a"
            " workflow writes when it is read, as by `snakemake -n`)"
        )
    found = []
    for file in files:
        listed = read_runs(file)
        seen = [_Seen(root, listed.experiment, record) for record in listed.runs]
        rates = [one.rate for one in seen if one.rate is not None]
        known = {(one.record.run, one.record.seed): one for one in seen}
        found += [one.status(known, median(rates) if rates else None) for one in seen]
    return found


class _Seen:
    """What lies in the folder of one run and seed."""

    def __init__(self, root: Path, experiment: str, record: RunRecord) -> None:
        self.root, self.experiment, self.record = root, experiment, record
        self.folder = root / record.folder
        self.checkpoints = sorted(record.checkpoints)
        self.done = {step for step in self.checkpoints if self._has(step)}
        saves = {
            int(path.stem.split("-")[1]): path.stat().st_mtime
            for path in self.folder.glob("state/step-*.safetensors")
        }
        self.saved = max(saves.values(), default=None)
        self.owner, self.heartbeat = self._read_owner()
        self.step = max({0, *self.done, *saves})
        self.rate: float | None = None
        self.loss: float | None = None
        self.lines = self._newest_log()
        self._read_progress()

    def _has(self, step: int) -> bool:
        weights = self.folder / f"checkpoints/{step}"
        return (weights / "checkpoint.json").is_file() or (
            self.record.imported and any(weights.glob("*.safetensors"))
        )

    def _read_owner(self) -> tuple[Owner | None, float | None]:
        path = self.folder / "state/owner.json"
        try:
            owner = read_owner(path)
            age = time.time() - path.stat().st_mtime
        except (UserError, OSError):
            return None, None
        if owner is None or (owner.host == socket.gethostname() and not is_alive(owner)):
            return None, None
        return (owner, age) if age < STALE_SECONDS else (None, None)

    def _newest_log(self) -> list[str]:
        """The lines of the newest attempt's log, but for empty ones."""
        logs = list(self.folder.glob("logs/train-*.log"))
        return _lines(max(logs, key=lambda path: path.stat().st_mtime)) if logs else []

    def _read_progress(self) -> None:
        """Pace and loss of the last line that says them."""
        matches = filter(None, map(PROGRESS.match, reversed(self.lines)))
        if (match := next(matches, None)) is None:
            return
        self.rate = float(match["rate"])
        self.loss = float(match["loss"]) if match["loss"] else None
        if self.owner is not None:
            self.step = max(self.step, int(match["step"]))

    def status(self, known: Known, usual: float | None) -> RunStatus:
        """As a row."""
        state, note = self._state(known)
        fid, fid_step = self._newest_fid()
        last = self.checkpoints[-1]
        rate = self.rate
        return RunStatus(
            experiment=self.experiment,
            run=self.record.run,
            label=self.record.label,
            seed=self.record.seed,
            state=state,
            step=last if state == "finished" else self.step,
            steps=last,
            next_checkpoint=next((one for one in self.checkpoints if one not in self.done), None),
            loss=self.loss,
            steps_per_second=rate,
            images_per_second=rate and rate * self.record.batch_size,
            owner="" if self.owner is None else str(self.owner),
            heartbeat_age=self.heartbeat,
            saved_age=None if self.saved is None else time.time() - self.saved,
            seconds_left=self._seconds_until(last, known, usual),
            fid=fid,
            fid_step=fid_step,
            note=note,
        )

    def _state(self, known: Known) -> tuple[State, str]:
        if len(self.done) == len(self.checkpoints):
            message = self._failed_evaluation()
            return ("failed", message) if message else ("finished", "")
        if self.owner is not None:
            return "training", ""
        if message := self._failure() or self._failed_evaluation():
            return "failed", message
        waits = [
            f"{teacher.run} at step {teacher.step}"
            for teacher, one in self._teachers(known)
            if teacher.step not in one.done
        ]
        if waits:
            return "waiting", f"for {', '.join(waits)}"
        return ("stopped", "") if self.step else ("not started", "")

    def _failure(self) -> str:
        """Why the last attempt ended, if it failed; a stop on request is no failure."""
        for marker in sorted(self.folder.glob("state/failed-*.json")):
            try:
                return str(read_fields(marker, message=str)["message"])
            except UserError as error:
                return str(error)
        return _error(self.lines)

    def _failed_evaluation(self) -> str:
        """Why a set of samples has no metrics, if a job that makes them failed."""
        for metrics in map(Path, self.record.metrics.values()):
            if (self.root / metrics).is_file():
                continue
            *_, step, samples, _ = metrics.parts
            made = f"{step}-{samples}"
            logs = self.root / metrics.parents[3] / "logs"
            for job in (
                f"generate-{made}", f"statistics-{made}-{metrics.stem}",
                f"metrics-{made}-{metrics.stem}",
            ):  # fmt: skip
                if (log := logs / f"{job}.log").is_file() and (message := _error(_lines(log))):
                    return f"{job}: {message}"
        return ""

    def _teachers(self, known: Known) -> Iterator[tuple[TeacherRecord, "_Seen"]]:
        for teacher in self.record.teachers:
            if (one := known.get((teacher.run, self.record.seed))) is not None:
                yield teacher, one

    def _seconds_until(self, step: int, known: Known, usual: float | None) -> float | None:
        """Seconds until a step is trained, what it waits for first included."""
        if step in self.done or self.step >= step:
            return 0.0
        waits = [
            one._seconds_until(teacher.step, known, usual) for teacher, one in self._teachers(known)
        ]
        known_waits = [wait for wait in waits if wait is not None]
        rate = self.rate or usual
        if not rate or len(known_waits) < len(waits):
            return None
        return max(known_waits, default=0.0) + (step - self.step) / rate

    def _newest_fid(self) -> tuple[float | None, int | None]:
        for step in sorted(map(int, self.record.metrics), reverse=True):
            path = self.root / self.record.metrics[str(step)]
            if path.is_file():
                fid = read_fields(path, metrics=dict)["metrics"].get("fid")
                if isinstance(fid, float):
                    return fid, step
        return None, None


def _lines(log: Path) -> list[str]:
    """The lines of a log, but for empty ones."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()]


def _error(lines: list[str]) -> str:
    """The last line of a log, if it is an error."""
    last = lines[-1] if lines else ""
    return last if FAILURE.match(last) else ""


def seconds_left(rows: list[RunStatus]) -> dict[str, float | None]:
    """Seconds until an experiment's last training ends, along its longest chain, by its name.

    Trainings that wait for a free card or for each other on one take longer.
    """
    left: dict[str, float | None] = {}
    for row in rows:
        before = left.get(row.experiment, 0.0)
        known = before is not None and row.seconds_left is not None
        left[row.experiment] = max(before or 0.0, row.seconds_left or 0.0) if known else None
    return left
