"""What jobs ask for: as configured, else as the experiment and the stated rates imply.

`REQUESTS` has a row for each rule; a rule takes its threads and resources from its row.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from selftrans.config import (
    AnalysisConfig,
    DatasetConfig,
    ExperimentConfig,
    JobResources,
    RunConfig,
)
from selftrans.runtime.errors import ConfigError
from selftrans.training.work import Work, segment_work
from workflow.lib.memory import (
    captions_memory,
    extraction_memory,
    probing_memory,
    sampling_memory,
    scoring_memory,
    small_memory,
    statistics_memory,
    training_memory,
)
from workflow.lib.paths import Wildcards
from workflow.lib.study import Study
from workflow.lib.training import checkpoint_below, saving_seconds
from workflow.lib.work import (
    captions_work,
    count_reference,
    encoding_work,
    features_work,
    gpu_hours,
    sampling_work,
    statistics_work,
)

Kind = Literal["data", "extract", "train", "generate", "evaluate", "light"]
"""The kinds of jobs that an experiment's `resources` tell apart."""

T = TypeVar("T")

START_MINUTES = 10
"""Reading the state, compiling, saving."""
TIME_HEADROOM = 1.5
"""Factor by which a time limit exceeds what the stated rates say."""
IMAGES_DECODED = 100
"""Images decoded per second and thread, on a slow core."""
SHORT, LONG = 60, 240
"""Minutes of a job that is not estimated: in general, and where it cannot resume."""


@dataclass(frozen=True)
class Job:
    """A job and what the configuration grants its kind."""

    study: Study
    wildcards: Wildcards
    kind: Kind
    granted: JobResources

    @property
    def experiment(self) -> ExperimentConfig:
        """The experiment that owns its result."""
        return self.study.experiment_of(self.wildcards)

    @property
    def run(self) -> RunConfig:
        """Its run."""
        return self.study.run_of(self.wildcards)

    @property
    def data(self) -> DatasetConfig:
        """Its data set, or that of its experiment."""
        return self.study.data_of(self.wildcards)

    @property
    def analysis(self) -> AnalysisConfig:
        """The analysis of its experiment."""
        assert self.experiment.analysis is not None
        return self.experiment.analysis

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on GPUs."""
        return self.granted.gpu > 0

    def minutes(self, work: Work) -> float:
        """What work takes on its GPUs, by the stated rates."""
        return 60 * gpu_hours(work, self.study.settings.rates.model_dump()) / self.granted.gpu


# -- memory in MB


def _small(job: Job) -> int:
    return small_memory(job.on_gpu)


def _extraction(job: Job) -> int:
    return extraction_memory(job.data, job.granted.workers, job.on_gpu)


def _captions(job: Job) -> int:
    return captions_memory(job.data, job.granted.workers, job.on_gpu)


def _segment(job: Job) -> int:
    nodes = job.granted.nodes
    return training_memory(job.experiment, job.run, job.granted.workers, nodes, job.on_gpu)


def _import(job: Job) -> int:
    """One process that computes nothing: the weights in their file and in ours."""
    return sampling_memory(job.experiment, job.run, 1, False, 1)


def _sampling(job: Job) -> int:
    size = job.granted.batch_size
    return sampling_memory(job.experiment, job.run, job.granted.workers, job.on_gpu, size)


def _statistics(job: Job) -> int:
    extractor, size = job.wildcards["extractor"], job.granted.batch_size
    return statistics_memory(extractor, job.granted.workers, job.on_gpu, size)


def _scoring(job: Job) -> int:
    images = int(job.wildcards["number"])
    return scoring_memory(job.wildcards["extractor"], images, job.data.image_size, job.on_gpu)


def _metrics(job: Job) -> int:
    """One process; without distances between features it reads statistics alone."""
    if job.kind == "light":
        return _small(job)
    return statistics_memory(job.wildcards["extractor"], 1, job.on_gpu, 1)


def _probes(job: Job) -> int:
    return probing_memory(job.run.model, job.analysis)


def _block_features(job: Job) -> int:
    """One process, which also holds the features that it makes."""
    size = job.granted.batch_size
    return sampling_memory(job.experiment, job.run, 1, job.on_gpu, size) + _probes(job)


# -- minutes on GPUs; None where they cannot be known


def _extraction_minutes(job: Job, work: Callable[[DatasetConfig], Work]) -> float | None:
    """The encoder on the GPUs, or decoding in the threads, whichever is slower."""
    if job.data.images is None:
        return None
    decoding = job.data.images / IMAGES_DECODED / job.granted.threads / 60
    return max(decoding, job.minutes(work(job.data)))


def _latents_minutes(job: Job) -> float | None:
    return _extraction_minutes(job, encoding_work)


def _features_minutes(job: Job) -> float | None:
    return _extraction_minutes(job, lambda data: features_work(data, job.wildcards["encoder"]))


def _captions_minutes(job: Job) -> float | None:
    return None if job.data.captions is None else job.minutes(captions_work(job.data))


def _segment_minutes(job: Job) -> float:
    """From the checkpoint below it, with its last save."""
    before = checkpoint_below(job.study, job.wildcards)
    work = segment_work(job.experiment, job.run, before, int(job.wildcards["step"]))
    return job.minutes(work) + saving_seconds(job.study, job.wildcards) / 60


def _sampling_minutes(job: Job) -> float:
    sampler = job.experiment.evaluation.samplers[job.wildcards["sampler"]]
    return job.minutes(sampling_work(job.experiment, job.run, sampler))


def _statistics_minutes(job: Job) -> float:
    images = int(job.wildcards["number"])
    return job.minutes(statistics_work(job.wildcards["extractor"], images))


def _reference_minutes(job: Job) -> float | None:
    """With decoding in one thread of each process."""
    if job.data.images is None and not job.data.reference:
        return None
    images = count_reference(job.data)
    decoding = images / IMAGES_DECODED / job.granted.gpu / 60
    return decoding + job.minutes(statistics_work(job.wildcards["extractor"], images))


def _metrics_kind(study: Study, wildcards: Wildcards) -> Kind:
    """Precision and recall are as heavy as features; all other metrics are light."""
    evaluation = study.experiment_of(wildcards).evaluation
    metrics = evaluation.metrics_of(wildcards["extractor"])
    return "evaluate" if {"precision", "recall"} & {*metrics} else "light"


# -- the table


@dataclass(frozen=True)
class Request:
    """What the jobs of a rule ask for, where the configuration does not say."""

    kind: Kind | Callable[[Study, Wildcards], Kind]
    """The kind whose settings apply."""
    memory: Callable[[Job], int] = _small
    """Its memory in MB."""
    minutes: Callable[[Job], float | None] | None = None
    """What it takes on GPUs; only such jobs are estimated."""
    otherwise: int = SHORT
    """Its time limit in minutes if that is not known."""
    share: int = 1
    """Jobs of a group, which share the profile's longest time limit."""
    always_retried: bool = False
    """Granted the configured retries also where its time limit needs none."""


REQUESTS = {
    "autoencoder": Request("data"),
    "classifier": Request("data"),
    "train_reader": Request("data"),
    "encoder": Request("data"),
    "reference_statistics": Request("data", _statistics, _reference_minutes, otherwise=LONG),
    "extract_latents": Request("extract", _extraction, _latents_minutes),
    "extract_features": Request("extract", _extraction, _features_minutes),
    "extract_captions": Request("extract", _captions, _captions_minutes),
    "train_segment": Request("train", _segment, _segment_minutes, always_retried=True),
    "import_checkpoint": Request("generate", _import),
    "freeze_teacher": Request("light"),
    "generate_samples": Request("generate", _sampling, _sampling_minutes),
    "class_examples": Request("light", _extraction),  # a few images, which wait for no card
    "sample_statistics": Request("evaluate", _statistics, _statistics_minutes, share=2),
    "metrics": Request(_metrics_kind, _metrics, share=2),
    "caption_metrics": Request("evaluate", _scoring, share=2),
    "block_features": Request("evaluate", _block_features, otherwise=LONG),
    "probe_blocks": Request("evaluate", _probes, otherwise=LONG),
    "probe_encoder": Request("evaluate", otherwise=LONG),
    "plot_similarity": Request("evaluate"),
    "table": Request("light"),
    "plot": Request("light"),
}


class Requests:
    """The table, for the experiments of a call.

    Args:
        study: the experiments.
        ceiling: the longest time limit in minutes that the profile allows any job, if it says so.
        in_job: whether this is a job on a cluster, and not the process that submits jobs.
    """

    def __init__(self, study: Study, ceiling: int | None = None, in_job: bool = False) -> None:
        self.study, self.ceiling, self.in_job = study, ceiling, in_job

    def __call__(self, rule: str) -> "RuleRequest":
        """What the jobs of a rule ask for."""
        return RuleRequest(REQUESTS[rule], self.study, self.ceiling, self.in_job)


class RuleRequest:
    """A rule's ``threads``, ``resources`` and ``retries``: functions of a job's wildcards.

    What all experiments grant alike is a number: Snakemake takes a tenth of a millisecond to call
    a function, and asks for seven of them for each of thousands of jobs.
    """

    def __init__(self, request: Request, study: Study, ceiling: int | None, in_job: bool) -> None:
        self.request, self.study = request, study
        self.ceiling, self.in_job = ceiling, in_job

    def _job(self, wildcards: Wildcards) -> Job:
        kind = self.request.kind
        if callable(kind):
            kind = kind(self.study, wildcards)
        granted = getattr(self.study.resources_of(wildcards), kind)
        return Job(self.study, wildcards, kind, granted)

    def _grant(self, of: Callable[[JobResources], T]) -> T | Callable[[Wildcards], T]:
        """What jobs are granted, by its kind of jobs."""
        kind = self.request.kind
        if not callable(kind):
            grants = {of(getattr(granted, kind)) for granted in self.study.resources.values()}
            if len(grants) == 1:
                return grants.pop()
        return lambda wildcards: of(self._job(wildcards).granted)

    @property
    def threads(self) -> int | Callable[[Wildcards], int]:
        """CPU threads."""
        return self._grant(lambda granted: granted.threads)

    @property
    def gpu(self) -> int | Callable[[Wildcards], int]:
        """GPUs."""
        return self._grant(lambda granted: granted.gpu)

    @property
    def device(self) -> str | Callable[[Wildcards], str]:
        """The option that says where a job computes."""
        return self._grant(lambda granted: "cuda" if granted.gpu else "cpu")

    @property
    def processes(self) -> int | Callable[[Wildcards], int]:
        """Processes: one for each GPU, where there are GPUs."""
        return self._grant(lambda granted: granted.workers)

    @property
    def nodes(self) -> int | Callable[[Wildcards], int]:
        """Nodes of a training."""
        return self._grant(lambda granted: granted.nodes)

    @property
    def batch_size(self) -> int | Callable[[Wildcards], int]:
        """Images at a time."""
        return self._grant(lambda granted: granted.batch_size)

    def mem_mb(self, wildcards: Wildcards, attempt: int) -> int:
        """Memory of a node in MB; that of light jobs grows with every attempt.

        The others ask for the same each time, since they are also retried after a time limit.
        """
        job = self._job(wildcards)
        memory = job.granted.mem_mb or self.request.memory(job)
        return memory * attempt if job.kind == "light" else memory

    def runtime(self, wildcards: Wildcards) -> int:
        """Time limit in minutes, at most the profile's ceiling or its share of it."""
        job = self._job(wildcards)
        needed = job.granted.runtime or self.request.otherwise
        if self.request.minutes and job.on_gpu and not job.granted.runtime:
            minutes = self.request.minutes(job)
            if minutes is not None:
                needed = START_MINUTES + math.ceil(TIME_HEADROOM * minutes)
        return min(needed, self.ceiling // self.request.share) if self.ceiling else needed

    def retries(self, jobs: Iterable[Wildcards]) -> int | None:
        """Attempts after the first: those that time limits need, and those that are configured.

        None leaves the number to the command line. Within a job on a cluster nothing is retried:
        its time is nearly up, and the main process submits another.

        Args:
            jobs: all jobs of the rule, the longest of which counts.
        """
        needed = 0 if self.in_job else max(map(self._interruptions, jobs), default=0)
        if self.request.always_retried:
            return 0 if self.in_job else self.study.settings.retries + needed
        return self.study.settings.retries + needed if needed else None

    def _interruptions(self, wildcards: Wildcards) -> int:
        """How often a job that resumes meets its time limit, by the stated rates."""
        job = self._job(wildcards)
        limited = job.granted.runtime or self.ceiling
        if not (self.request.minutes and job.on_gpu and limited):
            return 0
        limit = self.runtime(wildcards)
        at_work = max(limit - START_MINUTES, limit / 2)
        return int(TIME_HEADROOM * (self.request.minutes(job) or 0) / at_work)


def attempt_number(wildcards: Wildcards, attempt: int) -> int:  # noqa: ARG001
    """The number of this attempt: after a non-retryable failure the later ones stop at once."""
    return attempt


def time_ceiling(default_resources: Mapping[str, Any] | None) -> int | None:
    """The longest time limit in minutes that the profile allows any job; None if it does not say.

    Args:
        default_resources: Snakemake's, with the profile's ``max_runtime``.

    Raises:
        ConfigError: it is not a number.
    """
    if not default_resources or "max_runtime" not in default_resources:
        return None
    raw = default_resources["max_runtime"].raw
    try:
        return int(raw)
    except ValueError:
        raise ConfigError(
            f"default-resources: max_runtime: {raw!r} is not a number (allowed: minutes)"
        ) from None
