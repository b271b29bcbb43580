"""Binds the library to the rules: the study of this call, its input functions, its constraints."""

import sys
from pathlib import Path

from snakemake.common import overwrite_function_params
from snakemake.io import ancient

from selftrans.config import EXTRACTORS, SCORERS
from selftrans.runtime.errors import UserError
from workflow.lib import paths
from workflow.lib.analysis import Analysis
from workflow.lib.calls import Reports, prefetch_options
from workflow.lib.datasets import Datasets
from workflow.lib.evaluation import Evaluation
from workflow.lib.figures import Figures, entry_labels, plot_script
from workflow.lib.forking import fork_jobs
from workflow.lib.looking import look_when_needed
from workflow.lib.missing import missing
from workflow.lib.pages import Pages, assets_digests
from workflow.lib.paths import (
    CHECKPOINT,
    DATASET,
    EXPERIMENT,
    FEATURES,
    FIGURES,
    PROBES,
    RUN,
    SAMPLES,
    TEACHER,
)
from workflow.lib.resources import (
    Requests,
    RuleRequest,
    attempt_number,
    time_ceiling,
)
from workflow.lib.runs import write_records
from workflow.lib.signatures import keep_signatures
from workflow.lib.significance import Significance
from workflow.lib.slurm import Slurm
from workflow.lib.study import Study, one_of
from workflow.lib.submission import KEY, keep, study_of_job
from workflow.lib.training import Training
from workflow.lib.tuning import Tuning

try:
    if KEY in config:  # a job on a cluster
        study = study_of_job(config[KEY], Path(workflow.basedir))
    else:
        study = Study.open(config)
        write_records(study)
    ceiling = time_ceiling(workflow.resource_settings.default_resources)
except UserError as error:
    sys.exit(error.shown())

request = Requests(study, ceiling, in_job=workflow.remote_exec)
slurm = Slurm(study, request("train_segment"))
datasets = Datasets(study)
training = Training(study, ancient)
evaluation = Evaluation(study)
analysis = Analysis(study)
figures = Figures(study, training, evaluation)
tuning = Tuning(study)
comparisons = Significance(study, figures, evaluation)
pages = Pages(study, figures, evaluation)
keep_signatures(
    overwrite_function_params,
    *(Study, RuleRequest, Slurm, Datasets, Training, Evaluation, Analysis),
    *(Figures, Pages, Reports, Significance),
)
reports = Reports(study)


onstart:
    planned = list(workflow.dag.needrun_jobs())
    if absent := missing(
        study, [(job.rule.name, job.wildcards) for job in planned]
    ):
        sys.exit("\n".join(f"error: {line}" for line in absent))
    look_when_needed(workflow.scheduler)
    if workflow.non_local_exec:
        submitted = f"{KEY}={keep(study, Path(workflow.basedir))}"
        workflow.config_settings.config_args = [
            *workflow.config_settings.config_args,
            submitted,
        ]
    elif (
        study.settings.fork_jobs
        and not workflow.touch
        and not workflow.deployment_settings.deployment_method
    ):
        fork_jobs(planned)


wildcard_constraints:
    **study.wildcard_constraints(),
