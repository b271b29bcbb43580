"""What experiments will cost.

Operations are counted, a multiplication and an addition as two; hours follow from rates that are
stated beside them. Everything is counted as made from scratch; what several experiments share
counts once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf, prod

from selftrans.config import (
    FIRST_IMAGES,
    SCORERS,
    DatasetConfig,
    EncoderUse,
    ExperimentConfig,
    TrainedAutoencoderConfig,
)
from selftrans.flops import EXTRACTOR_LENGTHS, encoder_output, parameters
from selftrans.runtime.errors import UserError
from selftrans.training.work import segment_work
from workflow.lib import paths
from workflow.lib.analysis import Analysis
from workflow.lib.evaluation import Evaluation
from workflow.lib.figures import Figures, figure_names
from workflow.lib.paths import Job, fill, unique
from workflow.lib.settings import RatesConfig
from workflow.lib.significance import Significance
from workflow.lib.study import Study
from workflow.lib.training import Training, checkpoint_below
from workflow.lib.work import (
    captions_bytes,
    captions_work,
    condition_size,
    count_reference,
    count_rows,
    encoding_work,
    features_work,
    gpu_hours,
    sampling_work,
    scoring_work,
    statistics_work,
)

RULES = (
    "autoencoder", "classifier", "encoder", "extractor_weights", "extract_latents",
    "extract_features", "extract_captions", "reference_statistics", "import_checkpoint",
    "train_segment", "freeze_teacher", "class_examples", "generate_samples",
    "sample_statistics", "metrics", "fid_resamples", "train_reader", "caption_metrics",
    "block_features", "probe_blocks", "probe_encoder", "tables, figures, pages",
)  # fmt: skip


@dataclass
class Cost:
    """What the jobs of a rule take."""

    jobs: int = 0
    flop: float = 0.0
    gpu_hours: float = 0.0
    bytes: float = 0.0
    """What remains on the disk."""


def statistics_bytes(extractor: str, images: int) -> float:
    """Means and covariances of an extractor's features, and the features themselves."""
    lengths = EXTRACTOR_LENGTHS[extractor]
    return sum(8 * length**2 for length in lengths) + 4 * lengths[0] * images


class Plan:
    """Costs by rule, in the order in which the rules run.

    Args:
        study: the experiments.
        rates: TFLOP/s of a GPU by arithmetic; the study's, if they are not given.
    """

    def __init__(self, study: Study, rates: Mapping[str, float] | None = None) -> None:
        self.study, self.rates = study, rates or study.settings.rates.model_dump()
        self.training = Training(study, ancient=str)
        self.evaluation, self.analysis = Evaluation(study), Analysis(study)
        figures = Figures(study, self.training, self.evaluation)
        self.significance = Significance(study, figures, self.evaluation)
        self.costs = {rule: Cost() for rule in RULES}
        for data in {one.data.name: one.data for one in study.experiments.values()}.values():
            self._add_data(data)
        self._add_captions()
        self._add_imports()
        self._add_segments()
        self._add_teachers()
        self._add_samples()
        self._add_resamples()
        self._add_analysis()
        self._add("class_examples", jobs=len(set(map(study.examples_owner, study.experiments))))
        for experiment in study.experiments.values():
            jobs = 2 + len(figure_names(experiment))  # and the table of metrics, and the page
            jobs += "reader" in experiment.evaluation.scorers  # and that of captions
            self._add("tables, figures, pages", jobs=jobs)

    @property
    def total(self) -> Cost:
        """All rules together."""
        costs = self.costs.values()
        return Cost(*(sum(getattr(cost, part.name) for cost in costs) for part in fields(Cost)))

    def _add(
        self,
        rule: str,
        work: Mapping[str, float] | None = None,
        size: float = 0.0,
        gpu: int = 0,
        jobs: int = 1,
    ) -> None:
        """Count jobs of a rule.

        Args:
            rule: the rule.
            work: operations of each job by arithmetic.
            size: bytes that each leaves.
            gpu: GPUs that each asks for.
            jobs: how many there are.
        """
        cost = self.costs[rule]
        cost.jobs += jobs
        cost.bytes += jobs * size
        cost.flop += jobs * sum((work or {}).values())
        cost.gpu_hours += jobs * gpu_hours(work or {}, self.rates) if gpu else 0.0

    def _add_data(self, data: DatasetConfig) -> None:
        """What the experiments on a data set share."""
        users = [one for one in self.study.experiments.values() if one.data.name == data.name]
        granted = self.study.resources_of({"dataset": data.name})
        if isinstance(data.autoencoder, TrainedAutoencoderConfig):
            self._add("autoencoder")
        bytes_each = 2 if data.latents.dtype == "float16" else 4
        size = count_rows(data) * 2 * prod(data.latent_shape) * bytes_each
        self._add("extract_latents", encoding_work(data), size, granted.extract.gpu)
        self._add_encoders(data, users, granted.extract.gpu)
        for extractor in {name for one in users for name in one.evaluation.extractors}:
            if extractor == "classifier":
                self._add("classifier")
            images = count_reference(data)
            work, kept = statistics_work(extractor, images), statistics_bytes(extractor, images)
            self._add("reference_statistics", work, kept, granted.data.gpu)

    def _add_encoders(self, data: DatasetConfig, users: list[ExperimentConfig], gpu: int) -> None:
        used: set[EncoderUse] = {
            encoder for one in users for run in one.runs.values() for encoder in run.encoders
        }
        compared = {one.analysis.encoder for one in users if one.analysis and one.analysis.encoder}
        self._add("encoder", jobs=len({encoder.name for encoder in used} | compared))
        for encoder in used:
            if encoder.features == "store":
                length, _ = encoder_output(data, encoder.name)
                size = 2 * count_rows(data) * length
                self._add("extract_features", features_work(data, encoder.name), size, gpu)

    def _add_captions(self) -> None:
        """The captions that trainings read, and those that samples are made of."""
        on_captions = [one for one in self.study.experiments.values() if one.condition == "caption"]
        read = {one.data.name for one in on_captions if "reader" in one.evaluation.scorers}
        self._add("train_reader", jobs=len(read))
        for data in {data.name: data for one in on_captions for data in one.datasets}.values():
            gpu = self.study.resources_of({"dataset": data.name}).extract.gpu
            self._add("extract_captions", captions_work(data), captions_bytes(data), gpu)

    def _add_imports(self) -> None:
        """Of every imported checkpoint the weights that are sampled, and those of teachers."""
        sampled = [self.evaluation.sampled_checkpoint(job) for job in self.evaluation.jobs()]
        weights = {
            fill(paths.WEIGHTS, checkpoint): checkpoint
            for checkpoint in [*sampled, *self._teachers()]
            if self.study.run_of(checkpoint).imported
        }
        for checkpoint in weights.values():
            experiment = self.study.experiment_of(checkpoint)
            size = self._weights_bytes(experiment, checkpoint["run"])
            self._add("import_checkpoint", size=size)

    def _add_segments(self) -> None:
        for job in self.training.jobs():
            experiment, run, step = self.study.experiment_of(job), job["run"], job["step"]
            before = checkpoint_below(self.study, job)
            work = segment_work(experiment, experiment.runs[run], before, step)
            # Averaged and raw weights; and the state with both and two moments, which is kept.
            size = (2 + 4) * self._weights_bytes(experiment, run)
            gpu = self.study.resources_of(job).train.gpu
            self._add("train_segment", work, size, gpu)

    def _teachers(self) -> list[Job]:
        """Wildcards of all frozen teachers."""
        return unique(
            self.training.teacher({"experiment": name, "seed": seed}, teacher)
            for name, experiment in self.study.experiments.items()
            for run in experiment.runs.values()
            for teacher in run.teachers.values()
            for seed in experiment.seeds
        )

    def _add_teachers(self) -> None:
        for teacher in self._teachers():
            experiment = self.study.experiment_of(teacher)
            size = self._weights_bytes(experiment, teacher["run"], teacher["depth"])
            self._add("freeze_teacher", size=size)

    def _weights_bytes(
        self, experiment: ExperimentConfig, run: str, depth: int | None = None
    ) -> float:
        """Weights of a run's backbone in fp32; of one that is cut after ``depth`` blocks."""
        model, data = experiment.runs[run].model, experiment.data
        if depth is not None:
            model = model.model_copy(update={"depth": depth})
        return 4 * parameters(model, data.latent_shape, condition_size(data, model))

    def _add_samples(self) -> None:
        for job in self.evaluation.jobs():
            experiment, granted = self.study.experiment_of(job), self.study.resources_of(job)
            evaluation, images = experiment.evaluation, job["number"]
            kept = images if evaluation.keep_samples else min(FIRST_IMAGES, images)
            sampler = evaluation.samplers[job["sampler"]]
            work = sampling_work(experiment, experiment.runs[job["run"]], sampler)
            size = kept * 3 * experiment.data.image_size**2
            self._add("generate_samples", work, size, granted.generate.gpu)
        jobs = unique(
            job for name in self.study.experiments for job in self.evaluation.metrics_jobs(name)
        )
        for job in (job for job in jobs if job["extractor"] in SCORERS):
            gpu = self.study.resources_of(job).evaluate.gpu
            self._add("caption_metrics", scoring_work(job["extractor"], job["number"]), 0.0, gpu)
        metrics = [job for job in jobs if job["extractor"] not in SCORERS]
        self._add("metrics", jobs=len(metrics))
        for job in unique(map(self.evaluation.owned_samples, metrics)):
            extractor, images = job["extractor"], job["number"]
            work, size = statistics_work(extractor, images), statistics_bytes(extractor, images)
            gpu = self.study.resources_of(job).evaluate.gpu
            self._add("sample_statistics", work, size, gpu)
        published = {job["extractor"] for job in metrics} - {"classifier"}
        self._add("extractor_weights", jobs=len(published))

    def _add_resamples(self) -> None:
        jobs = unique(
            job for name in self.study.experiments for job in self.significance.resample_jobs(name)
        )
        self._add("fid_resamples", jobs=len(jobs))

    def _add_analysis(self) -> None:
        analysed = [
            {"experiment": name} for name, one in self.study.experiments.items() if one.analysis
        ]
        probes = unique(job for one in analysed for job in self.analysis.probe_jobs(one))
        self._add("probe_blocks", jobs=len(probes))
        self._add("block_features", jobs=len({self.analysis.features(job) for job in probes}))
        encoders = [path for one in analysed for path in self.analysis.encoder_probe(one)]
        self._add("probe_encoder", jobs=len(encoders))


def report(plan: Plan, measured_on: str | None = None) -> str:
    """The table, and what it rests on: rates that were measured on a card, or stated ones."""
    lines = [f"{'rule':22} {'jobs':>6} {'PFLOP':>12} {'GPU hours':>11} {'GB':>9}"]
    for rule, cost in {**plan.costs, "total": plan.total}.items():
        if cost.jobs:
            pflop, hours, size = map(_rounded, (cost.flop / 1e15, cost.gpu_hours, cost.bytes / 1e9))
            lines.append(f"{rule:22} {cost.jobs:6,} {pflop:>12} {hours:>11} {size:>9}")
    rates = ", ".join(f"{rate:.4g} in {arithmetic}" for arithmetic, rate in plan.rates.items())
    origin = f", as measured on {measured_on}" if measured_on else ""
    each = f"at {rates} TFLOP/s for each GPU{origin} (--rates); none where no GPU is asked for."
    days = plan.total.gpu_hours / 8 / 24
    lines += [
        "",
        f"GPU hours: {each}",
        f"On 8 GPUs that are always busy: {days:,.1f} days.",
        "Not counted: small networks trained on the data, probes.",
    ]
    return "\n".join(lines)


def _rounded(number: float) -> str:
    """One decimal; of less than one, two significant digits, so that small plans say something."""
    return f"{number:,.1f}" if number == 0 or number >= 1 else f"{number:.2g}"


def parse_rates(text: str, stated: RatesConfig) -> dict[str, float]:
    """``bf16=400,fp32=40`` over the rates that config.yaml states.

    Raises:
        UserError: it is something else.
    """
    rates = dict(stated.model_dump())
    for part in filter(None, text.split(",")):
        arithmetic, _, rate = part.partition("=")
        try:
            value = float(rate)
        except ValueError:
            value = 0.0
        if arithmetic not in rates or not 0 < value < inf:
            allowed = ", ".join(f"{name}=TFLOP/s" for name in rates)
            raise UserError(f"--rates: {part!r} is not a rate (allowed: {allowed})")
        rates[arithmetic] = value
    return rates
