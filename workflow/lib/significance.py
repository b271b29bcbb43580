"""Planned comparisons: what their table reads."""

from typing import Any

from selftrans.config import TrainedEncoderConfig
from selftrans.config.tuning import FollowedTuning
from workflow.lib import paths
from workflow.lib.evaluation import Evaluation
from workflow.lib.figures import Figures
from workflow.lib.paths import Job, Wildcards, fill
from workflow.lib.study import Study


class Significance:
    """Input and params functions of planned comparisons, by the wildcard ``experiment``."""

    def __init__(self, study: Study, figures: Figures, evaluation: Evaluation) -> None:
        self.study, self.figures, self.evaluation = study, figures, evaluation

    def planned(self, wildcards: Wildcards) -> list[tuple[str, str]]:
        """Run and opponent of each comparison that is tested."""
        return list(self.study.experiment_of(wildcards).planned_comparisons)

    def labels(self, wildcards: Wildcards) -> dict[str, str]:
        """The runs of the table with their names: the main ones that are trained, and tested ones.

        In the order of the experiment file.
        """
        tested = {run for pair in self.planned(wildcards) for run in pair}
        shown = tested | self.figures.compared_labels(wildcards).keys()
        labels = self.figures.run_labels(wildcards)
        return {run: label for run, label in labels.items() if run in shown}

    # -- resampled images

    def resample_jobs(self, experiment: str) -> list[Job]:
        """Wildcards of the resampled FIDs, where the owners of the metrics have them.

        Of the last checkpoint of each run of the table, for each seed.
        """
        return [
            {
                **self.evaluation.owned_metrics(samples, settings.evaluation.extractor_of("fid")),
                "resamples": settings.significance.resamples,
            }
            for settings in (self.study.experiments[experiment],)
            for samples in self._last_sets(experiment)
        ]

    def _last_sets(self, experiment: str) -> list[Job]:
        """The last set of samples of each run and seed; none without resampling."""
        name, settings = {"experiment": experiment}, self.study.experiments[experiment]
        if not settings.significance.resamples or not settings.compared_runs:
            return []
        sampler = settings.figures.sampler
        last = {run: settings.evaluated_steps(run, sampler)[-1:] for run in self.labels(name)}
        sets = self.evaluation.sample_sets(experiment, sampler)
        return [one for one in sets if one["step"] in last.get(one["run"], ())]

    def resampled(self, wildcards: Wildcards) -> list[str]:
        """The resampled FIDs."""
        jobs = self.resample_jobs(wildcards["experiment"])
        return [fill(paths.FID_RESAMPLES, job) for job in jobs]

    def resampled_runs(self, wildcards: Wildcards) -> list[tuple[str, int]]:
        """Run and seed of each of them."""
        jobs = self.resample_jobs(wildcards["experiment"])
        return [(job["run"], job["seed"]) for job in jobs]

    def resamples(self, wildcards: Wildcards) -> int:
        """How often the images of each set are resampled."""
        return self.study.experiment_of(wildcards).significance.resamples

    def tuned(self, wildcards: Wildcards) -> str:
        """The experiment that tuned the arms, with its seal; empty if none did."""
        tuned = self.study.experiment_of(wildcards).tuned
        return (
            f"{tuned.experiment} {tuned.digest[:12]}" if isinstance(tuned, FollowedTuning) else ""
        )

    # -- encoders

    def encoder_benchmarks(self, wildcards: Wildcards) -> dict[str, list[str]]:
        """For each run, the measured costs of the encoders that it or a teacher of it follows.

        Of the encoder's training, and of the extraction of its features where they are stored.
        """
        return {run: self._benchmarks(wildcards, run) for run in self.labels(wildcards)}

    def _benchmarks(self, wildcards: Wildcards, run: str) -> list[str]:
        experiment = self.study.experiment_of(wildcards)
        found = []
        for use in experiment.runs[run].encoders:
            of_encoder = {"dataset": experiment.data.name, "encoder": use.name}
            found.append(fill(paths.ENCODER_BENCHMARK, of_encoder))
            if use.features == "store":
                found.append(fill(paths.FEATURES_BENCHMARK, of_encoder))
        for teacher in self.figures.teachers_of_runs(wildcards)[run]:
            found += self._benchmarks(wildcards, teacher[0])
        return list(dict.fromkeys(found))

    def encoders_in_words(self, wildcards: Wildcards) -> dict[str, str]:
        """What each encoder that a run follows is, and what its time includes."""
        experiment = self.study.experiment_of(wildcards)
        runs: Any = (experiment.runs[run] for run in self.labels(wildcards))
        names = dict.fromkeys(use.name for run in runs for use in run.encoders)
        return {
            name: f"trained here on the labels of {experiment.data.name!r}, which is counted"
            if isinstance(experiment.data.encoders[name], TrainedEncoderConfig)
            else "published weights, whose own training is not counted"
            for name in names
        }
