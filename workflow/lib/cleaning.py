"""``selftrans clean``: results that no experiment names any more."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selftrans.config import EXPERIMENTS
from selftrans.runtime.errors import UserError
from workflow.lib import paths
from workflow.lib.evaluation import Evaluation
from workflow.lib.paths import fill
from workflow.lib.study import Study
from workflow.lib.training import Training

OWNERS = ("owner.json", "*.owner.json")
"""Files of those who write in a folder."""


@dataclass(frozen=True)
class Leftover:
    """A folder that may go."""

    path: Path
    reason: str
    bytes: int
    locked: bool
    """Whether something in it is being written, or was when its writer died."""


def all_experiments(*others: str) -> list[str]:
    """Every experiment of the project, and others by name or path."""
    shipped = [path.stem for path in sorted(EXPERIMENTS.glob("*.yaml"))]
    return [*shipped, *(other for other in others if other not in shipped)]


def leftovers(study: Study, *, states: bool = False) -> list[Leftover]:
    """Runs, sets of samples and, if asked for, states that no experiment of a study needs.

    Args:
        study: of all experiments, so that what one of them shares is known.
        states: also those of runs whose checkpoints are all there; to train one of them further
            begins anew without it.
    """
    needed = _needed_runs(study)
    return [
        *_unnamed_runs(needed),
        *_unnamed_samples(study, needed),
        *(_finished_states(study, needed) if states else ()),
    ]


def delete(found: list[Leftover]) -> int:
    """Delete what is not locked, and return the bytes that are free again.

    Raises:
        UserError: a folder has been locked since.
    """
    freed = 0
    for one in found:
        if one.locked:
            continue
        if _is_locked(one.path):
            raise UserError(f"{one.path}: is being written by now; nothing more is deleted")
        shutil.rmtree(one.path)
        freed += one.bytes
    return freed


def _needed_runs(study: Study) -> dict[Path, tuple[str, str]]:
    """Folders of the trainings that an experiment names, with owner and run."""
    jobs = Training(study, ancient=str).jobs()
    needed = {Path(fill(paths.RUN, job)): (job["experiment"], job["run"]) for job in jobs}
    for name, experiment in study.experiments.items():
        for run, settings in experiment.runs.items():
            if settings.imported:
                owner = study.run_owner(name, run)
                job = {"experiment": owner, "run": run, "seed": experiment.seeds[0]}
                needed[Path(fill(paths.RUN, job))] = (owner, run)
    return needed


def _runs() -> Iterator[Path]:
    """Folders of all trainings there are."""
    yield from sorted(Path().glob(paths.RUN.format(experiment="*", run="*", seed="*")))


def _unnamed_runs(needed: dict[Path, tuple[str, str]]) -> Iterator[Leftover]:
    for folder in _runs():
        if folder not in needed:
            yield _leftover(folder, "no experiment names this run and seed")


def _unnamed_samples(study: Study, needed: dict[Path, tuple[str, str]]) -> Iterator[Leftover]:
    evaluation = Evaluation(study)
    named = {Path(fill(paths.SAMPLES, job)) for job in evaluation.jobs()}
    # Metrics may have another owner than the images, and lie in a set of their own.
    named |= {
        Path(fill(paths.SAMPLES, job))
        for name in study.experiments
        for job in evaluation.metrics_jobs(name)
    }
    for folder in needed:
        for found in sorted(folder.glob("samples/*/*")):
            if found.is_dir() and found not in named:
                yield _leftover(found, "no experiment names this sampler and number of images")


def _finished_states(study: Study, needed: dict[Path, tuple[str, str]]) -> Iterator[Leftover]:
    for folder, (owner, run) in needed.items():
        steps = study.checkpoints_of(owner, run)
        records = [folder / f"checkpoints/{step}/checkpoint.json" for step in steps]
        if (folder / "state").is_dir() and all(record.is_file() for record in records):
            yield _leftover(folder / "state", "all checkpoints of this run are there")


def _leftover(folder: Path, reason: str) -> Leftover:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Leftover(folder, reason, size, _is_locked(folder))


def _is_locked(folder: Path) -> bool:
    return any(any(folder.rglob(pattern)) for pattern in OWNERS)
