"""What a call of the workflow passes on to the programs that look at all its experiments."""

import json
import shlex

from workflow.lib.paths import EXPERIMENT_FILE, REPORT, Wildcards
from workflow.lib.study import Study


def prefetch_options(study: Study) -> str:
    """The experiments of a call, and where its weights lie, for ``selftrans prefetch``."""
    words = [EXPERIMENT_FILE.format(experiment=name) for name in study.experiments]
    words += [f"--weights={name}={path}" for name, path in study.settings.weights.items()]
    return shlex.join(words)


class Reports:
    """A page of results for each experiment.

    Args:
        study: the experiments.
    """

    def __init__(self, study: Study) -> None:
        self.study = study

    def targets(self) -> list[str]:
        """The pages of all experiments."""
        return [REPORT.format(experiment=name) for name in self.study.experiments]

    def config(self, wildcards: Wildcards) -> str:
        """The configuration of a second Snakemake that makes a page, as JSON."""
        references = dict(zip(self.study.experiments, self.study.references, strict=True))
        one = references[wildcards["experiment"]]
        return json.dumps({"experiments": [one], "data": self.study.settings.data})
