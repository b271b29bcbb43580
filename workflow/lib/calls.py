"""What a call of the workflow passes on to the programs that look at all its experiments."""

import json
import shlex

from workflow.lib.paths import EXPERIMENT_FILE
from workflow.lib.study import Study


def prefetch_options(study: Study) -> str:
    """The experiments of a call, and where its weights lie, for ``workflow.lib.prefetch``."""
    words = [EXPERIMENT_FILE.format(experiment=name) for name in study.experiments]
    words += [f"--weights={name}={path}" for name, path in study.settings.weights.items()]
    return shlex.join(words)


def report_config(study: Study) -> str:
    """The configuration of a second Snakemake that makes the report, as JSON."""
    return json.dumps({"experiments": study.references, "data": study.settings.data})
