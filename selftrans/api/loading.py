"""A trained run of a project's results, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from selftrans.api.experiments import at_project
from selftrans.api.run import TrainedRun, training_of
from selftrans.config import ExperimentConfig, Weights
from selftrans.config import load_experiment as read_experiment
from selftrans.runs import DataRecord, RunRecord, find_project, read_runs, runs_file
from selftrans.runtime.devices import DeviceName
from selftrans.runtime.errors import Unavailable, UserError
from selftrans.training.input_paths import InputPaths
from selftrans.training.steps import TrainingSteps
from selftrans.training.trainer import Segment


def load_run(
    experiment: str,
    run: str,
    *,
    step: int | None = None,
    seed: int | None = None,
    weights: Weights = "ema",
    project: str | Path | None = None,
    device: DeviceName | torch.device = "auto",
    class_names: Sequence[str] | None = None,
) -> TrainedRun:
    """A checkpoint of a run, from the results of a project.

    Args:
        experiment: its name.
        run: its name in the experiment.
        step: of the checkpoint; the last one that was trained, if it is not given.
        seed: of the run; the experiment's first one, if it is not given.
        weights: averaged or raw.
        project: the folder that has the results; the nearest one, the working directory or one
            above it, if it is not given.
        device: where to compute; ``auto`` is a GPU where there is one.
        class_names: names of the classes, in their order; those of the data, if they are not given.

    Raises:
        UserError: a name, seed or step is unknown, with the known; or a file is damaged.
    """
    if weights not in (known := get_args(Weights)):
        raise UserError(f"weights {weights!r} are unknown (known: {', '.join(known)})")
    found = _listed(experiment, run, seed, project)
    trained = [
        one
        for one in sorted(found.record.checkpoints)
        if found.record.weights(found.project, one, weights).is_file()
    ]
    if step is None and trained:
        step = trained[-1]
    if step not in trained or step is None:
        listed = ", ".join(map(str, trained)) or "none yet"
        wanted = "" if step is None else f" of step {step}"
        raise Unavailable(
            f"{experiment}, run {run!r}: has no {weights} weights{wanted} (known: {listed})"
        )
    return TrainedRun(*found, step, weights, _device(device), class_names)


def load_training(
    experiment: str,
    run: str,
    *,
    step: int = 0,
    seed: int | None = None,
    project: str | Path | None = None,
    device: DeviceName | torch.device = "auto",
) -> TrainingSteps:
    """A run's training, whether or not it was begun, ready for its next optimizer step.

    Args:
        experiment, run, seed, project, device: as in ``load_run``.
        step: that it begins after: one with a saved state, or 0 for a fresh model.

    Raises:
        UserError: as ``load_run``, or something that its loss follows is missing.
    """
    return training_of(*_listed(experiment, run, seed, project), step, _device(device))


def new_training(
    experiment: ExperimentConfig,
    run: str,
    *,
    latents: str | Path,
    captions: str | Path | None = None,
    seed: int | None = None,
    teachers: Mapping[str, str | Path] | None = None,
    features: Sequence[str | Path] = (),
    encoders: Sequence[str | Path] = (),
    device: DeviceName | torch.device = "auto",
) -> TrainingSteps:
    """A fresh training of any experiment, also of one without results. Nothing is written.

    Args:
        experiment: of ``load_experiment`` or ``define_experiment``.
        run: its name in the experiment.
        latents: manifest of the latent store.
        captions: manifest of the images' captions, for a run that is conditioned on them.
        seed: of the run; the experiment's first one, if it is not given.
        teachers: frozen teachers, by the name of the term that follows them.
        features: manifests of encoders' stored features that the loss follows.
        encoders: files of encoders that it follows on the images of every batch.
        device: where to compute; ``auto`` is a GPU where there is one.

    Raises:
        UserError: the run is unknown or imported, or an input is missing, damaged or another one.
    """
    if run not in experiment.runs:
        known = ", ".join(experiment.runs)
        raise UserError(f"{run!r} is not a run of {experiment.name!r} (known: {known})")
    if experiment.runs[run].imported:
        raise UserError(f"run {run!r}: is imported, nothing is known of its training")
    segment = Segment(
        experiment=experiment,
        run=run,
        seed=experiment.seeds[0] if seed is None else seed,
        until=0,
        latents=Path(latents),
        inputs=InputPaths(
            captions=None if captions is None else Path(captions),
            teachers={term: Path(file) for term, file in (teachers or {}).items()},
            features=tuple(map(Path, features)),
            encoders=tuple(map(Path, encoders)),
        ),
        directory=Path(),
    )
    return TrainingSteps(segment, _device(device))


class _Listed(NamedTuple):
    """A run of a project's results."""

    project: Path
    experiment: ExperimentConfig
    record: RunRecord
    data: DataRecord


def _listed(experiment: str, run: str, seed: int | None, project: str | Path | None) -> _Listed:
    root = find_project(experiment, Path.cwd()) if project is None else Path(project).absolute()
    file = runs_file(root, experiment)
    runs = read_runs(file)
    record = runs.run(run, seed)
    if runs.file is None or runs.data is None:
        raise UserError(
            f"{file}: was written by an earlier version, which did not list where the data lie (it"
            " is written anew whenever the workflow is read)"
        )
    settings = at_project(read_experiment(root / runs.file, project=root), root)
    return _Listed(root, settings, record, runs.data)


def _device(name: DeviceName | torch.device) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
