"""Sets of samples, their statistics and metrics."""

import json
import shlex
from collections.abc import Collection, Iterable, Sequence
from itertools import product
from typing import Any, Protocol

from selftrans.config import (
    SELECTION_FIELDS,
    ExtractorName,
    Metric,
    SamplerConfig,
    ScorerName,
    versioned_identity,
)
from workflow.lib import paths
from workflow.lib.paths import Job, Wildcards, fill, unique
from workflow.lib.study import Study


class PromptsInput(Protocol):
    """The inputs of a job that samples."""

    prompts: Sequence[str]


class ExtractorInput(Protocol):
    """The inputs of a job that applies an extractor."""

    extractor: str


class Evaluation:
    """Input and params functions of generation and evaluation."""

    def __init__(self, study: Study) -> None:
        self.study = study

    # -- samples

    def sample_sets(
        self,
        experiment: str,
        sampler: str | None = None,
        checkpoints: Collection[int] | None = None,
    ) -> list[Job]:
        """Wildcards of an experiment's sets of samples, as it sees them.

        Args:
            experiment: the experiment that needs them, which need not own them.
            sampler: only the sets of this one.
            checkpoints: only the sets of these.
        """
        settings = self.study.experiments[experiment]
        samplers = settings.evaluation.samplers
        return [
            {
                "experiment": experiment,
                "run": run,
                "seed": seed,
                "step": step,
                "sampler": name,
                "number": samplers[name].num_samples,
            }
            for run, seed, name in product(settings.runs, settings.seeds, samplers)
            for step in settings.evaluated_steps(run, name)
            if sampler in (None, name) and (checkpoints is None or step in checkpoints)
        ]

    def owned_samples(self, samples: Wildcards) -> Job:
        """Wildcards of a set of samples where its owner has it."""
        experiment, run = samples["experiment"], samples["run"]
        owner = self.study.samples_owner(experiment, run, samples["sampler"])
        return {**samples, "experiment": owner}

    def owned_metrics(self, samples: Wildcards, extractor: ExtractorName | ScorerName) -> Job:
        """Wildcards of the metrics of a set of samples where their owner has them."""
        experiment, run = samples["experiment"], samples["run"]
        owner = self.study.metrics_owner(experiment, run, samples["sampler"], extractor)
        return {**samples, "experiment": owner, "extractor": extractor}

    def jobs(self) -> list[Job]:
        """Wildcards of all sets of samples, each once, where their owners have them."""
        return unique(
            self.owned_samples(samples)
            for name in self.study.experiments
            for samples in self.sample_sets(name)
        )

    def sample_targets(self) -> list[str]:
        """What `generate` requests: the images, or the statistics after which they are deleted."""
        targets = [
            path
            for name, experiment in self.study.experiments.items()
            for samples in self.sample_sets(name)
            for path in self._targets_of(samples, experiment.evaluation.extractors)
        ]
        return list(dict.fromkeys(targets))

    def _targets_of(self, samples: Wildcards, extractors: Iterable[str]) -> list[str]:
        owned = self.owned_samples(samples)
        if self.study.experiment_of(owned).evaluation.keep_samples:
            return [fill(paths.SAMPLE_IMAGES, owned)]
        return [fill(paths.STATISTICS, owned, extractor=extractor) for extractor in extractors]

    def sampler_of(self, wildcards: Wildcards) -> SamplerConfig:
        """The settings of a job's sampler."""
        return self.study.experiment_of(wildcards).evaluation.samplers[wildcards["sampler"]]

    def has_balanced_classes(self, wildcards: Wildcards) -> bool:
        """Whether sample i of a set has class i modulo their number."""
        experiment = self.study.experiment_of(wildcards)
        return experiment.condition == "class" and self.sampler_of(wildcards).labels == "balanced"

    def sampler_definition(self, wildcards: Wildcards) -> str:
        """What a set of samples depends on, as JSON."""
        version = self.study.experiment_of(wildcards).defaults
        sampler = self.sampler_of(wildcards)
        return json.dumps(versioned_identity(sampler, version, exclude=SELECTION_FIELDS))

    def prompts_option(self, wildcards: Wildcards, input: PromptsInput) -> str:  # noqa: A002
        """The captions that samples are made of, for the command line."""
        return " ".join(f"--prompts {path}" for path in input.prompts)

    def sampled_checkpoint(self, wildcards: Wildcards) -> Job:
        """Wildcards of the weights of a set of samples, which lie with the run's owner."""
        owner = self.study.run_owner(wildcards["experiment"], wildcards["run"])
        return {**wildcards, "experiment": owner, "weights": self.sampler_of(wildcards).weights}

    def weights_to_sample(self, wildcards: Wildcards) -> str:
        """The weights of a set of samples."""
        return fill(paths.WEIGHTS, self.sampled_checkpoint(wildcards))

    # -- extractors

    def extractor_of_data(self, wildcards: Wildcards) -> str:
        """What represents an extractor among the inputs.

        The classifier's weights, or the record that published weights exist.
        """
        if wildcards["extractor"] == "classifier":
            return fill(paths.CLASSIFIER, wildcards)
        return fill(paths.EXTRACTOR_WEIGHTS, wildcards)

    def extractor_of_experiment(self, wildcards: Wildcards) -> str:
        """The same, for the data set of a job's experiment."""
        dataset = self.study.experiment_of(wildcards).data.name
        return self.extractor_of_data({"dataset": dataset, "extractor": wildcards["extractor"]})

    def weights_option(self, wildcards: Wildcards, input: ExtractorInput) -> str:  # noqa: A002
        """The file of an extractor's weights; published ones may lie in the cache."""
        if wildcards["extractor"] == "classifier":
            return f"--weights {input.extractor}"
        return self._weights_file("--weights", wildcards["extractor"])

    def search_option(self, wildcards: Wildcards) -> str:
        """Where published weights are looked for, if not in the cache."""
        return self._weights_file("--path", wildcards["extractor"])

    def fetch_option(self) -> str:
        """Whether published weights are downloaded."""
        return "--fetch" if self.study.settings.fetch_weights else ""

    def _weights_file(self, option: str, extractor: str) -> str:
        files: dict[Any, str] = self.study.settings.weights
        return f"{option} {shlex.quote(files[extractor])}" if extractor in files else ""

    # -- metrics

    def description(self, wildcards: Wildcards) -> str:
        """The description of the samples that metrics are computed of."""
        return fill(paths.SAMPLES_DESCRIPTION, self.owned_samples(wildcards))

    def statistics(self, wildcards: Wildcards) -> str:
        """The statistics of these samples."""
        return fill(paths.STATISTICS, self.owned_samples(wildcards))

    def sample_features(self, wildcards: Wildcards) -> str:
        """The features of these samples."""
        return fill(paths.SAMPLE_FEATURES, self.owned_samples(wildcards))

    def scored_images(self, wildcards: Wildcards) -> str:
        """The images of the samples whose pictures are compared with captions."""
        return fill(paths.SAMPLE_IMAGES, self.owned_samples(wildcards))

    def reader(self, wildcards: Wildcards) -> list[str]:
        """The network that reads scenes, where a rule makes what scores."""
        dataset = self.study.experiment_of(wildcards).data.name
        chosen = wildcards["extractor"] == "reader"
        return [fill(paths.READER, {"dataset": dataset})] if chosen else []

    def scorer_weights(self, wildcards: Wildcards) -> str:
        """What scores: the reader's file, or CLIP's directory or name."""
        return (
            "".join(self.reader(wildcards)) or self.study.experiment_of(wildcards).evaluation.clip
        )

    def scored_metrics(self, wildcards: Wildcards) -> str:
        """The metrics that a scorer computes, as the command line takes them."""
        return ",".join(self.metrics_of_extractor(wildcards))

    def classifier(self, wildcards: Wildcards) -> list[str]:
        """The classifier whose features metrics are computed of, which says how good it is."""
        chosen = wildcards["extractor"] == "classifier"
        return [self.extractor_of_experiment(wildcards)] if chosen else []

    def metrics_of_extractor(self, wildcards: Wildcards) -> tuple[Metric, ...]:
        """The metrics that are computed from an extractor's features."""
        return self.study.experiment_of(wildcards).evaluation.metrics_of(wildcards["extractor"])

    def distances(self, wildcards: Wildcards) -> str:
        """The arithmetic of the distances of precision and recall."""
        return self.study.experiment_of(wildcards).evaluation.distances

    def metrics_jobs(self, experiment: str) -> list[Job]:
        """Wildcards of all metrics that an experiment tabulates, where their owners have them."""
        evaluation = self.study.experiments[experiment].evaluation
        return [
            self.owned_metrics(samples, network)
            for samples in self.sample_sets(experiment)
            for network in (*evaluation.extractors, *evaluation.scorers)
        ]

    def all_metrics(self, wildcards: Wildcards) -> list[str]:
        """The metrics that an experiment tabulates."""
        return [fill(paths.METRICS, job) for job in self.metrics_jobs(wildcards["experiment"])]

    def read_jobs(self, wildcards: Wildcards) -> list[Job]:
        """Wildcards of the metrics that the reader of scenes makes for an experiment."""
        jobs = self.metrics_jobs(wildcards["experiment"])
        return [job for job in jobs if job["extractor"] == "reader"]

    def read_metrics(self, wildcards: Wildcards) -> list[str]:
        """These metrics."""
        return [fill(paths.METRICS, job) for job in self.read_jobs(wildcards)]

    def read_samples(self, wildcards: Wildcards) -> list[str]:
        """The sampler of each of them."""
        return [job["sampler"] for job in self.read_jobs(wildcards)]

    def targets(self) -> list[str]:
        """The tables of every experiment."""
        experiments = self.study.experiments
        tables = [paths.METRICS_TABLE.format(experiment=name) for name in experiments]
        return tables + [
            paths.CAPTION_ACCURACY.format(experiment=name)
            for name, one in experiments.items()
            if "reader" in one.evaluation.scorers
        ]
