"""The page of each experiment: what it reads, and what it says of the settings."""

from pathlib import Path
from typing import Any

from selftrans.config import ExperimentConfig
from selftrans.runtime.files import sha256_of
from workflow.lib import paths
from workflow.lib.evaluation import Evaluation
from workflow.lib.figures import KINDS, Figures, figure_kind, figure_names
from workflow.lib.page.words import run_in_words, sampler_in_words, settings_in_words
from workflow.lib.paths import Job, Wildcards, fill
from workflow.lib.running import Call
from workflow.lib.study import Study

ROOT = Path(__file__).parents[1]
ASSETS = ("page/page.html", "page/page.css", "page/chart.js", "page/page.js")
"""What a page is made of, in ``workflow/``."""


def assets_digests() -> dict[str, str]:
    """Their digests, and those of the captions: a page whose form changes is made again."""
    captions = sorted({f"report/{kind.caption}.rst" for kind in KINDS.values()})
    return {name: sha256_of(ROOT / name) for name in (*ASSETS, *captions)}


class Pages:
    """Input and params functions of the pages, by the wildcard ``experiment``."""

    def __init__(self, study: Study, figures: Figures, evaluation: Evaluation) -> None:
        self.study, self.figures, self.evaluation = study, figures, evaluation

    def _experiment(self, wildcards: Wildcards) -> ExperimentConfig:
        return self.study.experiments[wildcards["experiment"]]

    def targets(self) -> list[str]:
        """The pages of all experiments."""
        return [paths.PAGE.format(experiment=name) for name in self.study.experiments]

    # -- inputs

    def pictures(self, wildcards: Wildcards) -> list[str]:
        """Every figure, as PNG."""
        directory = fill(paths.FIGURES, wildcards)
        names = figure_names(self._experiment(wildcards))
        return [f"{directory}/{name}.png" for name in names]

    def comparison(self, wildcards: Wildcards) -> list[str]:
        """The comparison of the trained runs, if there are any."""
        trained = self._experiment(wildcards).trained_runs
        return [fill(paths.COMPARISON, wildcards)] if trained else []

    def probes(self, wildcards: Wildcards) -> list[str]:
        """What probes read off the features, if that is asked."""
        analysis = self._experiment(wildcards).analysis
        return [fill(paths.DISCRIMINABILITY, wildcards)] if analysis else []

    def weights(self, wildcards: Wildcards) -> list[str]:
        """The last averaged weights of the first seed of every run, whose header says its size."""
        experiment = self._experiment(wildcards)
        return [
            fill(
                paths.WEIGHTS,
                {
                    "experiment": self.study.run_owner(experiment.name, name),
                    "run": name,
                    "seed": experiment.seeds[0],
                    "step": run.training.checkpoints[-1],
                    "weights": "ema",
                },
            )
            for name, run in experiment.runs.items()
        ]

    def _sample_sets(self, wildcards: Wildcards) -> list[Job]:
        """Sets of samples of the first seed of the main runs, but for those of sweeps."""
        experiment = self._experiment(wildcards)
        samplers, shown = experiment.evaluation.samplers, experiment.figures.sampler
        return [
            samples
            for samples in self.evaluation.sample_sets(experiment.name)
            if samples["seed"] == experiment.seeds[0]
            and samples["run"] in experiment.main_runs
            and (not samplers[samples["sampler"]].sweep or samples["sampler"] == shown)
        ]

    def samples(self, wildcards: Wildcards) -> list[str]:
        """The first images of these sets."""
        sets = map(self.evaluation.owned_samples, self._sample_sets(wildcards))
        return [fill(paths.FIRST_SAMPLES, samples) for samples in sets]

    def sample_keys(self, wildcards: Wildcards) -> list[tuple[str, int, str]]:
        """Run, step and sampler of these sets."""
        return [(one["run"], one["step"], one["sampler"]) for one in self._sample_sets(wildcards)]

    # -- what the settings say

    def settings(self, wildcards: Wildcards) -> dict[str, Any]:
        """What a page says of its experiment beside the results; the page changes with it."""
        experiment = self._experiment(wildcards)
        evaluation, data = experiment.evaluation, experiment.data
        published = self.figures.published(wildcards)
        runs = {**experiment.main_runs, **experiment.runs}  # those of grids come last
        return {
            "name": experiment.name,
            "command": Call((self.study.requested_as(experiment.name),)).shown(),
            "description": experiment.description,
            "terms": settings_in_words(experiment),
            "runs": [run_in_words(experiment, run) for run in runs],
            "weights": list(experiment.runs),
            "seeds": list(experiment.seeds),
            "class_names": self.figures.class_names(wildcards) or [],
            "shown": "Captions" if experiment.condition == "caption" else "Classes",
            "separator": " / " if experiment.condition == "caption" else ", ",
            "baseline": experiment.baseline,
            "sampler": experiment.figures.sampler,
            "samplers": {
                name: sampler_in_words(sampler) for name, sampler in evaluation.samplers.items()
            },
            "extractors": {
                name: evaluation.metrics_of(name)
                for name in (*evaluation.extractors, *evaluation.scorers)
            },
            "reference": data.reference,
            "teachers": self.figures.teachers_of_runs(wildcards),
            "maskings": self.figures.maskings(wildcards),
            "stand_ins": self.figures.stand_in_notes(wildcards),
            "published": published,
            "published_rows": self.figures.published_rows(wildcards),
            "figures": [(name, *figure_kind(name)) for name in figure_names(experiment)],
            "columns": experiment.figures.sample_columns,
            "t": experiment.analysis.shown_time if experiment.analysis else None,
        }
