"""Writes ``results/EXPERIMENT/runs.json``, the list of an experiment's runs (``selftrans.runs``).

Runs that an experiment shares with the one that it extends are resolved to their owner's folder.
"""

import os
from contextlib import suppress
from itertools import product
from pathlib import Path

from selftrans.config import PretrainedAutoencoderConfig
from selftrans.runs import DataRecord, RunList, RunRecord, TeacherRecord
from selftrans.runtime.files import read_json, write_json
from workflow.lib import paths
from workflow.lib.datasets import Datasets
from workflow.lib.evaluation import Evaluation
from workflow.lib.study import Study
from workflow.lib.training import Training


def records(study: Study, experiment: str) -> RunList:
    """What the file of an experiment holds."""
    settings = study.experiments[experiment]
    return RunList(
        format=1,
        experiment=experiment,
        sampler=settings.figures.sampler,
        runs=[
            _record(study, experiment, name, seed)
            for name, seed in product(settings.runs, settings.seeds)
        ],
        file=paths.EXPERIMENT_FILE.format(experiment=experiment),
        data=_data(study, experiment),
    )


def _record(study: Study, experiment: str, name: str, seed: int) -> RunRecord:
    settings, evaluation = study.experiments[experiment], Evaluation(study)
    training = Training(study, ancient=str)
    run = settings.runs[name]
    owner = {"experiment": study.run_owner(experiment, name), "run": name, "seed": seed}
    extractor = settings.evaluation.extractor
    terms = zip(run.teachers.items(), training.teacher_files(owner), strict=True)
    return RunRecord(
        run=name,
        label=run.label or name,
        seed=seed,
        folder=paths.fill(paths.RUN, owner),
        imported=run.imported is not None,
        checkpoints=list(run.training.checkpoints),
        batch_size=run.training.batch_size,
        teachers=[
            TeacherRecord(run=teacher.choice.run, step=teacher.choice.step, term=term, file=file)
            for (term, teacher), file in terms
        ],
        captions="".join(training.captions(owner)),
        prompts="".join(Datasets(study).prompts_of_experiment(owner)),
        features=training.feature_stores(owner),
        encoders=training.encoder_files(owner),
        metrics={
            str(job["step"]): paths.fill(paths.METRICS, evaluation.owned_metrics(job, extractor))
            for job in evaluation.sample_sets(experiment, settings.figures.sampler)
            if (job["run"], job["seed"]) == (name, seed)
        },
    )


def _data(study: Study, experiment: str) -> DataRecord:
    settings = study.experiments[experiment]
    dataset, autoencoder = {"dataset": settings.data.name}, settings.data.autoencoder
    decoder = None
    if isinstance(autoencoder, PretrainedAutoencoderConfig):
        decoder = autoencoder.decoder
    return DataRecord(
        name=settings.data.name,
        latents=paths.fill(paths.LATENTS, dataset),
        autoencoder=decoder or Datasets(study).autoencoder_path(dataset),
        other_decoder=decoder is not None,
        classifier=paths.fill(paths.CLASSIFIER, dataset),
        references={
            extractor: paths.fill(paths.REFERENCE, dataset, extractor=extractor)
            for extractor in settings.evaluation.extractors
        },
        class_names=list(settings.data.class_names or ()),
    )


def write_records(study: Study) -> None:
    """Write the files of all requested experiments that have changed.

    And link what TensorBoard shows of their data sets, so that a folder of an experiment has all.
    """
    for name, experiment in study.experiments.items():
        shown = paths.DATASET_EVENTS.format(dataset=experiment.data.name)
        link(Path(paths.EVENTS_OF_DATASET.format(experiment=name)), Path(shown))
        path = Path(paths.RUNS.format(experiment=name))
        content = records(study, name).model_dump(mode="json")
        if not path.is_file() or read_json(path) != content:
            write_json(path, content)


def link(path: Path, target: Path) -> None:
    """Make ``path`` a relative link to ``target``, unless something else lies there."""
    relative = os.path.relpath(target, path.parent)
    if path.is_symlink() and path.readlink() != Path(relative):
        path.unlink()
    if not os.path.lexists(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # made by another call just now
            path.symlink_to(relative)
