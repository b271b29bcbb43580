"""``results/EXPERIMENT/runs.json``: where the results of each run and seed lie.

Written when a workflow is read, for whoever reads results without it: ``status``, scripts, pages.
Runs that an experiment shares with the one that it extends are resolved to their owner's folder.
"""

from itertools import product
from pathlib import Path
from typing import Any

from selftrans.runtime.files import read_fields, read_json, write_json
from workflow.lib import paths
from workflow.lib.evaluation import Evaluation
from workflow.lib.study import Study


def records(study: Study, experiment: str) -> dict[str, Any]:
    """What the file of an experiment holds."""
    settings, evaluation = study.experiments[experiment], Evaluation(study)
    shown = settings.figures.sampler
    extractor = settings.evaluation.extractor
    runs = []
    for name, seed in product(settings.runs, settings.seeds):
        run = settings.runs[name]
        owner = {"experiment": study.run_owner(experiment, name), "run": name, "seed": seed}
        runs.append(
            {
                "run": name,
                "label": run.label or name,
                "seed": seed,
                "folder": paths.fill(paths.RUN, owner),
                "imported": run.imported is not None,
                "checkpoints": list(run.training.checkpoints),
                "batch_size": run.training.batch_size,
                "teachers": [
                    {"run": teacher.choice.run, "step": teacher.choice.step}
                    for teacher in run.teachers.values()
                ],
                "metrics": {
                    str(job["step"]): paths.fill(
                        paths.METRICS, evaluation.owned_metrics(job, extractor)
                    )
                    for job in evaluation.sample_sets(experiment, shown)
                    if (job["run"], job["seed"]) == (name, seed)
                },
            }
        )
    return {"format": 1, "experiment": experiment, "sampler": shown, "runs": runs}


def write_records(study: Study) -> None:
    """Write the files of all requested experiments that have changed."""
    for name in study.experiments:
        path, content = Path(paths.RUNS.format(experiment=name)), records(study, name)
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)


def read_records(path: Path) -> dict[str, Any]:
    """The content of such a file.

    Raises:
        UserError: it is absent, damaged, or of another format.
    """
    return read_fields(path, experiment=str, sampler=str, runs=list)
