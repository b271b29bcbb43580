"""Tuning: the trials of every arm, and where the best ones are written."""

from typing import Any

from selftrans.config import ExperimentConfig
from selftrans.config.identity import tuned_definition
from workflow.lib import paths
from workflow.lib.paths import Wildcards
from workflow.lib.study import Study


class Tuning:
    """Input and params functions of tuning, by the wildcard ``experiment``."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def _experiment(self, wildcards: Wildcards) -> ExperimentConfig:
        return self.study.experiments[wildcards["experiment"]]

    def targets(self) -> list[str]:
        """What is found for each experiment that tunes."""
        return [
            paths.TUNED.format(experiment=name)
            for name, experiment in self.study.experiments.items()
            if experiment.tuning
        ]

    def arms(self, wildcards: Wildcards) -> dict[str, list[str]]:
        """The runs of each arm's trials, in order."""
        experiment = self._experiment(wildcards)
        return {arm: list(experiment.grids[arm].runs) for arm in experiment.arms}

    def values(self, wildcards: Wildcards) -> dict[str, list[dict[str, Any]]]:
        """For each arm, the tuned keys as each of its trials has them."""
        experiment = self._experiment(wildcards)
        return {arm: experiment.trial_values(arm) for arm in experiment.arms}

    def definitions(self, wildcards: Wildcards) -> dict[str, str]:
        """Digest of what else defines each arm."""
        experiment = self._experiment(wildcards)
        return {
            arm: tuned_definition(experiment, arm, experiment.tuned_keys(arm))
            for arm in experiment.arms
        }

    def seeds(self, wildcards: Wildcards) -> list[int]:
        """The seeds that are tuned on."""
        return list(self._experiment(wildcards).seeds)

    def steps(self, wildcards: Wildcards) -> dict[str, int]:
        """Steps of each arm's trainings."""
        runs = self._experiment(wildcards).runs
        return {arm: runs[arm].training.checkpoints[-1] for arm in self.arms(wildcards)}
