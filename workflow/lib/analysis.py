"""The features of trained models, and what probes read off them."""

from itertools import product
from typing import Any

from selftrans.config import (
    PROBE_FIELDS,
    AnalysisConfig,
    ExperimentConfig,
    TrainedEncoderConfig,
    versioned_identity,
)
from workflow.lib import paths
from workflow.lib.paths import Job, Wildcards, fill
from workflow.lib.study import Study


class Analysis:
    """Input and params functions of the analysis of features."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def settings(self, wildcards: Wildcards) -> AnalysisConfig:
        """The settings of the analysis of a job's experiment."""
        analysis = self.study.experiment_of(wildcards).analysis
        assert analysis is not None
        return analysis

    def definition(self, wildcards: Wildcards) -> dict[str, Any]:
        """What the features of a run depend on, beside its weights."""
        version = self.study.experiment_of(wildcards).defaults
        return versioned_identity(self.settings(wildcards), version, exclude=PROBE_FIELDS)

    def neighbours(self, wildcards: Wildcards) -> int:
        """Neighbours of the k-NN probe."""
        return self.settings(wildcards).neighbours

    def shown_time(self, wildcards: Wildcards) -> float:
        """The time whose features are shown."""
        return self.settings(wildcards).shown_time

    def checkpoints(self, wildcards: Wildcards) -> list[str]:
        """The averaged weights of all checkpoints of a run, which lie with its owner."""
        owner = self.study.run_owner(wildcards["experiment"], wildcards["run"])
        return [
            fill(paths.WEIGHTS, wildcards, experiment=owner, step=step, weights="ema")
            for step in self.study.run_of(wildcards).training.checkpoints
        ]

    def features(self, wildcards: Wildcards) -> str:
        """The features that a run's probes read."""
        owner = self.study.features_owner(wildcards["experiment"], wildcards["run"])
        return fill(paths.FEATURES, wildcards, experiment=owner)

    def first_seed(self, experiment: ExperimentConfig) -> list[Job]:
        """Wildcards of the first seed of every main run."""
        return [
            {"experiment": experiment.name, "run": run, "seed": experiment.seeds[0]}
            for run in experiment.main_runs
        ]

    def features_of_first_seed(self, wildcards: Wildcards) -> list[str]:
        """The features of the first seed of every main run."""
        return list(map(self.features, self.first_seed(self.study.experiment_of(wildcards))))

    def features_of_first_run(self, wildcards: Wildcards) -> str:
        """The features that name the images an encoder is probed on."""
        return self.features_of_first_seed(wildcards)[0]

    def features_of_aligned_runs(self, wildcards: Wildcards) -> list[str]:
        """The features of the first seed of the runs that have an alignment."""
        experiment = self.study.experiment_of(wildcards)
        jobs = self.first_seed(experiment)
        return [self.features(job) for job in jobs if job["run"] in experiment.aligned_runs]

    def probed_runs(self, wildcards: Wildcards) -> list[tuple[str, int]]:
        """Run and seed of all probes."""
        experiment = self.study.experiment_of(wildcards)
        return list(product(experiment.main_runs, experiment.seeds))

    def probe_jobs(self, wildcards: Wildcards) -> list[Job]:
        """Wildcards of all probes, where their owners have them."""
        name = wildcards["experiment"]
        return [
            {"experiment": self.study.probes_owner(name, run), "run": run, "seed": seed}
            for run, seed in self.probed_runs(wildcards)
        ]

    def all_probes(self, wildcards: Wildcards) -> list[str]:
        """The probes of every main run and seed."""
        return [fill(paths.PROBES, job) for job in self.probe_jobs(wildcards)]

    def encoder_probe(self, wildcards: Wildcards) -> list[str]:
        """The probes of the encoder that blocks are compared with, if there is one."""
        encoder = self.settings(wildcards).encoder
        return [fill(paths.ENCODER_PROBES, wildcards, encoder=encoder)] if encoder else []

    def encoder_title(self, wildcards: Wildcards) -> str | None:
        """Name of the encoder in figures: a stand-in is called one."""
        if not (name := self.settings(wildcards).encoder):
            return None
        encoder = self.study.experiment_of(wildcards).data.encoders[name]
        if not isinstance(encoder, TrainedEncoderConfig):
            return encoder.model
        return f"{name} encoder" if "stand-in" in name else f"{name} (stand-in encoder)"
