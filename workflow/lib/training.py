"""Training segments, frozen teachers and imported checkpoints."""

import json
import math
import shlex
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from selftrans.config import FrozenTeacher, versioned_identity
from selftrans.flops import parameters
from selftrans.runtime.files import read_fields
from selftrans.training.definition import SAVING_FILE
from workflow.lib import paths
from workflow.lib.paths import Job, Wildcards, fill, unique
from workflow.lib.study import Study
from workflow.lib.work import condition_size

SLOW_DISK = 100e6
"""Bytes per second."""


class TrainingInputs(Protocol):
    """The inputs of a job that trains, or computes what a training does."""

    captions: Sequence[str]
    teachers: Sequence[str]
    features: Sequence[str]
    encoders: Sequence[str]


class SegmentInputs(Protocol):
    """The inputs of a training segment."""

    before: str


class Training:
    """Input and params functions of the trainings.

    Args:
        study: the experiments.
        ancient: Snakemake's mark of an input whose age means nothing.
    """

    def __init__(self, study: Study, ancient: Callable[[str], str]) -> None:
        self.study, self.ancient = study, ancient

    # -- targets

    def segments(self, experiment: str) -> list[Job]:
        """Wildcards of every checkpoint that an experiment needs, where its owner has it."""
        settings = self.study.experiments[experiment]
        return [
            {
                "experiment": self.study.run_owner(experiment, run),
                "run": run,
                "seed": seed,
                "step": step,
            }
            for run, seed in product(settings.trained_runs, settings.seeds)
            for step in settings.runs[run].training.checkpoints
        ]

    def jobs(self) -> list[Job]:
        """Wildcards of all segments, each once, with those that they go on from."""
        wanted = [job for name in self.study.experiments for job in self.segments(name)]
        before = [
            {**job, "step": step}
            for job in wanted
            for step in self.study.checkpoints_of(job["experiment"], job["run"])
            if step < job["step"]
        ]
        return unique([*wanted, *before])

    def targets(self) -> list[str]:
        """The averaged weights of every checkpoint."""
        return [fill(paths.WEIGHTS, job, weights="ema") for job in self.jobs()]

    # -- what alignments follow

    def teacher(self, wildcards: Wildcards, teacher: FrozenTeacher) -> Job:
        """Wildcards of a frozen teacher of a run."""
        choice = teacher.choice
        return {
            "experiment": self.study.run_owner(wildcards["experiment"], choice.run),
            "run": choice.run,
            "seed": wildcards["seed"],
            "step": choice.step,
            "weights": choice.weights,
            "depth": teacher.depth,
        }

    def teacher_files(self, wildcards: Wildcards) -> list[str]:
        """The frozen teachers of a run, one for each term of the loss that follows a teacher."""
        teachers = self.study.run_of(wildcards).teachers.values()
        return [fill(paths.TEACHER, self.teacher(wildcards, teacher)) for teacher in teachers]

    def captions(self, wildcards: Wildcards) -> list[str]:
        """The captions of a run that is conditioned on them."""
        experiment = self.study.experiment_of(wildcards)
        if experiment.condition == "class":
            return []
        return [paths.CAPTIONS.format(dataset=experiment.data.name)]

    def feature_stores(self, wildcards: Wildcards) -> list[str]:
        """The stores of encoders' features that a run's alignments read."""
        return self._encoder_inputs(wildcards, "store", paths.ENCODER_FEATURES)

    def encoder_files(self, wildcards: Wildcards) -> list[str]:
        """The encoders that a run's alignments apply to images."""
        return self._encoder_inputs(wildcards, "images", paths.ENCODER)

    def _encoder_inputs(self, wildcards: Wildcards, features: str, template: str) -> list[str]:
        dataset = self.study.experiment_of(wildcards).data.name
        return [
            template.format(dataset=dataset, encoder=encoder.name)
            for encoder in self.study.run_of(wildcards).encoders
            if encoder.features == features
        ]

    def input_options(self, wildcards: Wildcards, input: TrainingInputs) -> str:  # noqa: A002
        """What a training reads beside latents, for the command line: each named by its reader."""
        terms = self.study.run_of(wildcards).teachers
        teachers = [f"{name}={path}" for name, path in zip(terms, input.teachers, strict=True)]
        options = {
            "--captions": input.captions,
            "--teacher": teachers,
            "--features": input.features,
            "--encoder": input.encoders,
        }
        return " ".join(f"{option} {path}" for option, files in options.items() for path in files)

    # -- inputs of a segment, none of which trains a finished one again

    def frozen_input(self, path: str, wildcards: Wildcards) -> str:
        """An input of a segment; that of a finished segment is ancient, so its age means nothing.

        The others are not: Snakemake 9 passes over jobs behind an ancient input that is being made
        again.
        """
        return self.ancient(path) if _record(wildcards).is_file() else path

    def frozen_latents(self, wildcards: Wildcards) -> list[str]:
        """The latents that a segment reads."""
        dataset = self.study.experiment_of(wildcards).data.name
        return [self.frozen_input(paths.LATENTS.format(dataset=dataset), wildcards)]

    def frozen_captions(self, wildcards: Wildcards) -> list[str]:
        """The captions that a segment reads."""
        return [self.frozen_input(path, wildcards) for path in self.captions(wildcards)]

    def frozen_teachers(self, wildcards: Wildcards) -> list[str]:
        """The frozen teachers that a segment follows."""
        return [self.frozen_input(path, wildcards) for path in self.teacher_files(wildcards)]

    def frozen_features(self, wildcards: Wildcards) -> list[str]:
        """The stores of features that a segment reads."""
        return [self.frozen_input(path, wildcards) for path in self.feature_stores(wildcards)]

    def frozen_encoders(self, wildcards: Wildcards) -> list[str]:
        """The encoders that a segment applies."""
        return [self.frozen_input(path, wildcards) for path in self.encoder_files(wildcards)]

    def segment_before(self, wildcards: Wildcards) -> str | list[str]:
        """The weights of the checkpoint that a segment waits for; none for the first segment.

        The checkpoint below it, or a lower one that is still to be trained, since two segments of a
        run never train at once. Of a finished segment it is the one that was waited for, so that a
        checkpoint inserted later changes nothing.
        """
        record = _record(wildcards)
        if record.is_file():
            before = read_fields(record, after=int)["after"]
        else:
            checkpoints = self.study.checkpoints_of(wildcards["experiment"], wildcards["run"])
            below = [step for step in checkpoints if step < int(wildcards["step"])]
            unfinished = [step for step in below if not _record(wildcards, step=step).is_file()]
            before = max(unfinished or below, default=0)
        if not before:
            return []
        path = fill(paths.WEIGHTS, wildcards, step=before, weights="ema")
        return self.frozen_input(path, wildcards)

    def step_before(self, wildcards: Wildcards, input: SegmentInputs) -> str | int:  # noqa: A002
        """The step of those weights, 0 for none: read off the input, fixed before any job."""
        return Path(input.before).parent.name if input.before else 0

    def inserted(self, wildcards: Wildcards) -> str:
        """The option that says that only an extension has this checkpoint.

        A resource and no param: it does not change what is trained.
        """
        own = self.study.run_of(wildcards).training.checkpoints
        return "" if int(wildcards["step"]) in own else "--inserted"

    # -- order

    def urgency(self, wildcards: Wildcards) -> int:
        """Priority of a segment: the longest chain first, and any training before evaluation."""
        owner, run, step = wildcards["experiment"], wildcards["run"], int(wildcards["step"])
        return 1 + self.steps_waiting(owner, run, step)

    def steps_waiting(self, owner: str, run: str, step: int) -> int:
        """Steps of the longest chain of trainings that waits for ``step`` of a run.

        Its own remaining steps, or those of its students.
        """
        chains = [self.study.checkpoints_of(owner, run)[-1] - step]
        for name, experiment in self.study.experiments.items():
            for student, settings in experiment.runs.items():
                for teacher in settings.teachers.values():
                    choice = teacher.choice
                    follows = (self.study.run_owner(name, choice.run), choice.run) == (owner, run)
                    if follows and choice.step >= step:
                        rest = self.steps_waiting(self.study.run_owner(name, student), student, 0)
                        chains.append(choice.step - step + rest)
        return max(chains)

    # -- imported checkpoints

    def imported_file(self, wildcards: Wildcards) -> str:
        """The file of an imported checkpoint."""
        imported = self.study.run_of(wildcards).imported
        assert imported is not None
        return imported.file

    def import_options(self, wildcards: Wildcards) -> str:
        """What an imported checkpoint is, for the command line; not where it lies.

        Where the empty caption of an MMDiT lies is part of it.
        """
        experiment, run = self.study.experiment_of(wildcards), self.study.run_of(wildcards)
        imported = run.imported
        assert imported is not None
        options = {
            "--convention": imported.convention,
            "--step": imported.step,
            "--scale": imported.scale,
            "--shift": imported.shift,
            "--interpolant": run.training.interpolant,
            "--name": wildcards["run"],
            "--latent-size": experiment.data.latent_shape[1],
            "--expected": json.dumps(
                versioned_identity(run.model, experiment.defaults, exclude={"preset"})
            ),
        }
        if imported.empty_context is not None:
            options["--empty-context"] = imported.empty_context
        words = [str(word) for option in options.items() for word in option]
        words += [word for prefix in imported.ignore for word in ("--ignore", prefix)]
        return shlex.join(words)


def checkpoint_below(study: Study, wildcards: Wildcards) -> int:
    """The checkpoint below that of a segment, 0 for the first one."""
    checkpoints = study.checkpoints_of(wildcards["experiment"], wildcards["run"])
    return max((step for step in checkpoints if step < int(wildcards["step"])), default=0)


def _record(wildcards: Wildcards, **others: Any) -> Path:
    """The record of a finished segment."""
    return Path(fill(paths.CHECKPOINT_RECORD, wildcards, **others))


def saving_seconds(study: Study, wildcards: Wildcards) -> int:
    """How long before its end a training has to be warned: three times its last save, and a minute.

    Before the first save, by the size of its state and a slow disk.
    """
    state = Path(fill(paths.RUN, wildcards)) / "state" / SAVING_FILE
    if state.is_file():
        seconds = read_fields(state, seconds=(int, float))["seconds"]
    else:
        data, model = study.experiment_of(wildcards).data, study.run_of(wildcards).model
        number = parameters(model, data.latent_shape, condition_size(data, model))
        seconds = 4 * 4 * number / SLOW_DISK  # weights, average and two moments, in fp32
    return 60 + math.ceil(3 * seconds)
