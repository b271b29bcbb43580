"""What an experiment will cost, before anyone spends a week on it. ``python -m selftrans.plan --help``.

Operations are counted, a multiplication and an addition as two; hours follow from a rate that is stated beside them. Everything
is counted as made from scratch; what several experiments share counts once.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import prod
from pathlib import Path

from selftrans.config import (
    FIRST_IMAGES,
    ExperimentConfig,
    RatesConfig,
    TrainedAutoencoderConfig,
    WorkflowConfig,
    load_experiment,
    read_yaml,
    validated,
)
from selftrans.flops import (
    EXTRACTOR_LENGTHS,
    count_classes,
    count_reference,
    count_rows,
    encoder_output,
    encoding_work,
    features_work,
    gpu_hours,
    parameters,
    sampling_work,
    segment_work,
    statistics_work,
)
from selftrans.runtime.errors import UserError, run_main

RULES = (
    "autoencoder", "classifier", "encoder", "extractor_weights", "extract_latents", "extract_features", "reference_statistics",
    "import_checkpoint", "train_segment", "freeze_teacher", "generate_samples", "sample_statistics", "metrics",
    "block_features", "probe_blocks", "probe_encoder", "tables and figures",
)  # fmt: skip


@dataclass
class Cost:
    """What the jobs of a rule take."""

    jobs: int = 0
    flop: float = 0.0
    gpu_hours: float = 0.0
    bytes: float = 0.0
    """What stays on the disk."""


def statistics_bytes(extractor: str, images: int) -> float:
    """Means and covariances of an extractor's features, and the features themselves."""
    lengths = EXTRACTOR_LENGTHS[extractor]
    return sum(8 * length**2 for length in lengths) + 4 * lengths[0] * images


class Plan:
    """Costs by rule, in the order in which the rules run.

    Args:
        experiments: what is to be made.
        rates: TFLOP/s of one GPU by arithmetic.
    """

    def __init__(
        self, experiments: Sequence[ExperimentConfig], rates: Mapping[str, float] | None = None
    ) -> None:
        self.experiments, self.rates = experiments, rates or RatesConfig().model_dump()
        self.costs = {rule: Cost() for rule in RULES}
        for experiment in {experiment.data.name: experiment for experiment in experiments}.values():
            self._add_data(experiment)
        for _ in {
            name for experiment in experiments for name in experiment.evaluation.extractors
        } - {"classifier"}:
            self._add("extractor_weights", 1)
        for experiment in experiments:
            self._add_training(experiment)
            self._add_evaluation(experiment)
            self._add_figures(experiment)

    @property
    def total(self) -> Cost:
        """All rules together."""
        costs = self.costs.values()
        return Cost(*(sum(getattr(cost, part.name) for cost in costs) for part in fields(Cost)))

    def _add(
        self,
        rule: str,
        jobs: int,
        work: Mapping[str, float] | None = None,
        size: float = 0.0,
        gpu: int = 0,
    ) -> None:
        """Count jobs of a rule: operations of each by arithmetic, bytes that each leaves, GPUs if it asks for any."""
        cost = self.costs[rule]
        cost.jobs += jobs
        cost.bytes += jobs * size
        cost.flop += jobs * sum((work or {}).values())
        cost.gpu_hours += jobs * gpu_hours(work or {}, self.rates) if gpu else 0.0

    def _add_data(self, experiment: ExperimentConfig) -> None:
        """What the experiments on the same data share."""
        data, requested = experiment.data, experiment.resources
        sharing = [other for other in self.experiments if other.data == data]
        rows = count_rows(data)
        if isinstance(data.autoencoder, TrainedAutoencoderConfig):
            self._add("autoencoder", 1)
        size = rows * 2 * prod(data.latent_shape) * (2 if data.latents.dtype == "float16" else 4)
        self._add("extract_latents", 1, encoding_work(data), size, requested.extract.gpu)
        used = {
            encoder for other in sharing for run in other.runs.values() for encoder in run.encoders
        }
        analysed = {
            other.analysis.encoder for other in sharing if other.analysis and other.analysis.encoder
        }
        self._add("encoder", len({encoder.name for encoder in used} | analysed))
        for encoder in used:
            if encoder.features == "store":
                work, numbers = (
                    features_work(data, encoder.name),
                    encoder_output(data, encoder.name)[0],
                )
                self._add("extract_features", 1, work, rows * numbers * 2, requested.extract.gpu)
        for extractor in {name for other in sharing for name in other.evaluation.extractors}:
            self._add("classifier", int(extractor == "classifier"))
            reference = count_reference(data)
            work, kept = (
                statistics_work(extractor, reference),
                statistics_bytes(extractor, reference),
            )
            self._add("reference_statistics", 1, work, kept, requested.data.gpu)

    def _add_training(self, experiment: ExperimentConfig) -> None:
        data, seeds = experiment.data, len(experiment.seeds)
        for run in experiment.runs.values():
            size, training = (
                4 * parameters(run.model, data.latent_shape, count_classes(data)),
                run.training,
            )
            if run.imported:
                weights = {sampler.weights for sampler in experiment.evaluation.samplers.values()}
                taught = (
                    teacher for other in experiment.runs.values() for teacher in other.teachers
                )
                weights |= {
                    one.choice.weights for one in taught if experiment.runs[one.choice.run] is run
                }
                self._add("import_checkpoint", len(weights), size=size)
                continue
            for before, step in pairwise((0, *training.checkpoints)):
                # Averaged and raw weights; and the state, with both and two moments, which stays at every checkpoint.
                work = segment_work(experiment, run, before, step)
                self._add(
                    "train_segment", seeds, work, size * (2 + 4), experiment.resources.train.gpu
                )
        for teacher in {teacher for run in experiment.runs.values() for teacher in run.teachers}:
            cut = experiment.runs[teacher.choice.run].model.model_copy(
                update={"depth": teacher.depth}
            )
            size = 4 * parameters(cut, data.latent_shape, count_classes(data))
            self._add("freeze_teacher", seeds, size=size)

    def _add_evaluation(self, experiment: ExperimentConfig) -> None:
        data, evaluation, requested = experiment.data, experiment.evaluation, experiment.resources
        for name, sampler in evaluation.samplers.items():
            images = sampler.num_samples
            kept = images if evaluation.keep_samples else min(FIRST_IMAGES, images)
            for run, settings in experiment.runs.items():
                jobs = len(experiment.evaluated_steps(run, name)) * len(experiment.seeds)
                work = sampling_work(experiment, settings, sampler)
                self._add(
                    "generate_samples",
                    jobs,
                    work,
                    kept * 3 * data.image_size**2,
                    requested.generate.gpu,
                )
                for extractor in evaluation.extractors:
                    work, size = (
                        statistics_work(extractor, images),
                        statistics_bytes(extractor, images),
                    )
                    self._add("sample_statistics", jobs, work, size, requested.evaluate.gpu)
                    self._add("metrics", jobs)

    def _add_figures(self, experiment: ExperimentConfig) -> None:
        if experiment.analysis:
            probed = len(experiment.main_runs) * len(experiment.seeds)
            self._add("block_features", probed)
            self._add("probe_blocks", probed)
            self._add("probe_encoder", int(experiment.analysis.encoder is not None))
        self._add("tables and figures", 1 + len(experiment.figure_names))


def report(plan: Plan) -> str:
    """The table, and what it rests on."""
    lines = [f"{'rule':22} {'jobs':>6} {'PFLOP':>12} {'GPU hours':>11} {'GB':>9}"]
    for rule, cost in {**plan.costs, "total": plan.total}.items():
        if cost.jobs:
            numbers = f"{cost.flop / 1e15:12,.1f} {cost.gpu_hours:11,.1f} {cost.bytes / 1e9:9,.1f}"
            lines.append(f"{rule:22} {cost.jobs:6,} {numbers}")
    rates = ", ".join(f"{rate:g} in {precision}" for precision, rate in plan.rates.items())
    days = plan.total.gpu_hours / 8 / 24
    lines += [
        "",
        f"GPU hours: at {rates} TFLOP/s for each GPU (--rates); jobs that ask for no GPU have none.",
        f"On 8 GPUs that are always busy: {days:,.1f} days. Not counted: small networks trained on the data, probes.",
    ]
    return "\n".join(lines)


def parse_rates(text: str, stated: RatesConfig) -> dict[str, float]:
    """``bf16=400,fp32=40`` over the rates that config.yaml states.

    Raises:
        UserError: it is something else.
    """
    rates = dict(stated.model_dump())
    for part in filter(None, text.split(",")):
        precision, _, rate = part.partition("=")
        try:
            value = float(rate)
        except ValueError:
            value = 0.0
        if precision not in rates or value <= 0:
            raise UserError(
                f"--rates: {part!r} is no rate (allowed: {', '.join(f'{name}=TFLOP/s' for name in rates)})"
            )
        rates[precision] = value
    return rates


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.plan",
        description="How many jobs, GPU hours and gigabytes experiments will take, by rule.",
    )
    parser.add_argument(
        "experiments", nargs="*", help="names or files (default: those of config.yaml)"
    )
    parser.add_argument(
        "--rates",
        default="",
        help="TFLOP/s of a GPU, for instance bf16=400,tf32=200 (default: config.yaml's)",
    )
    parser.add_argument(
        "--config", type=Path, default=Path("config.yaml"), help="(default: config.yaml)"
    )
    arguments = parser.parse_args()
    settings = validated(WorkflowConfig, read_yaml(arguments.config), str(arguments.config))
    names = arguments.experiments or settings.references()
    experiments = [load_experiment(name, settings.data) for name in names]
    requested = [{"resources": settings.job_kinds(experiment)} for experiment in experiments]
    changed = [
        one.model_copy(update=update) for one, update in zip(experiments, requested, strict=True)
    ]
    print(report(Plan(changed, parse_rates(arguments.rates, settings.rates))))


if __name__ == "__main__":
    run_main(main)
