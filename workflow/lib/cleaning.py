"""``selftrans clean``: results that no experiment names any more."""

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from selftrans.config import EXPERIMENTS, experiment_path
from selftrans.runtime.errors import UserError
from workflow.lib import paths
from workflow.lib.analysis import Analysis
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
    """Every experiment of the project, and others by name or path, each once."""
    shipped = {path.resolve(): path.stem for path in sorted(EXPERIMENTS.glob("*.yaml"))}
    found = {experiment_path(other).resolve(): other for other in others}
    return list({**found, **shipped}.values())


def leftovers(study: Study, gone: Collection[str] = (), *, states: bool = False) -> list[Leftover]:
    """Runs, sets of samples and, if asked for, states that no experiment of a study needs.

    Of experiments that the study does not know, whose file may lie elsewhere, nothing is listed.

    Args:
        study: of all experiments, so that what one of them shares is known.
        gone: names of experiments that are gone for good.
        states: also those of runs whose checkpoints are all there.
    """
    trained, needed, samples = _needed(study)
    found = [
        _leftover(folder, "no experiment names this run and seed")
        for folder in _runs({*study.known, *gone})
        if folder not in needed
    ]
    found += [
        _leftover(folder, "no experiment names this sampler and number of images")
        for run in sorted(needed)
        for folder in sorted(run.glob("samples/*/*"))
        if folder.is_dir() and folder not in samples
    ]
    if states:
        found += _finished_states(study, trained)
    return [one for one in found if not one.path.is_symlink()]


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


Owned = dict[Path, tuple[str, str]]
"""Folders of trainings, with owner and run."""


def _needed(study: Study) -> tuple[Owned, set[Path], set[Path]]:
    """Trainings that are needed, folders of runs with anything needed, needed sets of samples.

    What an experiment adds to a run that it shares lies in a folder of its own.
    """
    evaluation, analysis = Evaluation(study), Analysis(study)
    jobs = Training(study, ancient=str).jobs()
    trained = {Path(fill(paths.RUN, job)): (job["experiment"], job["run"]) for job in jobs}
    sets = evaluation.jobs()
    sampled = [evaluation.sampled_checkpoint(one) for one in sets]
    metrics = [job for name in study.experiments for job in evaluation.metrics_jobs(name)]
    samples = {Path(fill(paths.SAMPLES, job)) for job in [*sets, *metrics]}
    needed = {*trained, *(Path(fill(paths.RUN, job)) for job in [*sets, *sampled, *metrics])}
    for name, experiment in study.experiments.items():
        if experiment.analysis:
            probes = analysis.probe_jobs({"experiment": name})
            needed |= {Path(fill(paths.RUN, job)) for job in probes}
            needed |= {Path(analysis.features(job)).parents[1] for job in probes}
            needed |= {
                Path(analysis.features(job)).parents[1] for job in analysis.first_seed(experiment)
            }
        for run, settings in experiment.runs.items():
            if settings.imported:
                owner = {"experiment": study.run_owner(name, run), "run": run}
                needed.add(Path(fill(paths.RUN, owner, seed=experiment.seeds[0])))
    return trained, needed, samples


def _runs(experiments: Collection[str]) -> list[Path]:
    """Folders of all trainings there are of some experiments."""
    template = paths.RUN.replace("{run}", "*").replace("{seed}", "*")
    return sorted(
        folder
        for name in experiments
        for folder in Path().glob(template.format(experiment=name))
        if folder.is_dir()
    )


def _finished_states(study: Study, trained: Owned) -> Iterator[Leftover]:
    for folder, (owner, run) in trained.items():
        steps = study.checkpoints_of(owner, run)
        records = [folder / f"checkpoints/{step}/checkpoint.json" for step in steps]
        if (folder / "state").is_dir() and all(record.is_file() for record in records):
            yield _leftover(folder / "state", "all checkpoints of this run are there")


def _leftover(folder: Path, reason: str) -> Leftover:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Leftover(folder, reason, size, _is_locked(folder))


def _is_locked(folder: Path) -> bool:
    return any(any(folder.rglob(pattern)) for pattern in OWNERS)
