"""``results/EXPERIMENT/runs.json``: where the results of each run and seed lie.

Written when a workflow is read, for whoever reads results without it: ``status``, scripts, pages.
Runs that an experiment shares with the one that it extends are resolved to their owner's folder.
"""

import os
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
    """Write the files of all requested experiments that have changed.

    And link what TensorBoard shows of their data sets, so that a folder of an experiment has all.
    """
    for name, experiment in study.experiments.items():
        shown = paths.DATASET_EVENTS.format(dataset=experiment.data.name)
        link(Path(paths.EVENTS_OF_DATASET.format(experiment=name)), Path(shown))
        path, content = Path(paths.RUNS.format(experiment=name)), records(study, name)
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)


def link(path: Path, target: Path) -> None:
    """Make ``path`` a relative link to ``target``, unless something else lies there."""
    relative = os.path.relpath(target, path.parent)
    if path.is_symlink() and path.readlink() != Path(relative):
        path.unlink()
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(relative)


def read_records(path: Path) -> dict[str, Any]:
    """The content of such a file.

    Raises:
        UserError: it is absent, damaged, or of another format.
    """
    return read_fields(path, experiment=str, sampler=str, runs=list)
