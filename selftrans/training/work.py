"""How many operations a training takes, by arithmetic: a multiplication and an addition are two.

What a training reports of its speed, plans and time limits rest on these counts. Nothing here
imports torch.
"""

from collections.abc import Mapping
from functools import partial

from selftrans.alignment.method import AlignmentMethod, Costs
from selftrans.config import AlignmentConfig, ExperimentConfig, RunConfig, TrainingConfig
from selftrans.flops import backbone_flop, encoder_output, tokens_of

Work = dict[str, float]
"""Operations of a job by arithmetic (fp32, tf32, fp16, bf16)."""


def training_arithmetic(training: TrainingConfig) -> str:
    """The arithmetic whose rate a training reaches on a GPU."""
    if training.precision != "fp32":
        return "bf16"
    return "tf32" if training.tf32 else "fp32"


def segment_work(experiment: ExperimentConfig, run: RunConfig, before: int, step: int) -> Work:
    """Training a run from one step to another, with the encoders that it runs on images."""
    training = run.training
    passes = 4 if training.activation_checkpointing else 3
    flop = (
        (step - before) * training.batch_size * passes * backbone_flop(run.model, experiment.data)
    )
    in_fp32 = 0.0
    for term in run.alignments.values():
        last = term.stop_after or step
        aligned = (min(step, last) - min(before, last)) * training.batch_size
        assert isinstance(term, AlignmentMethod)
        costs = term_costs(term, experiment, run)
        flop += aligned * term.flop(costs)
        in_fp32 += aligned * term.fp32_flop(costs)
    for encoder in run.encoders:
        if encoder.features == "images":
            encoded = (step - before) * training.batch_size
            in_fp32 += encoded * encoder_output(experiment.data, encoder.name)[1]
    work: Work = {training_arithmetic(training): flop}
    if in_fp32:
        exact = "tf32" if training.tf32 else "fp32"
        work[exact] = work.get(exact, 0.0) + in_fp32
    return work


def term_costs(term: AlignmentConfig, experiment: ExperimentConfig, run: RunConfig) -> Costs:
    """What the operations of a term of the loss follow from."""
    side, followed = experiment.data.latent_shape[1], term.frozen_teacher
    teacher = experiment.runs[followed.choice.run].model if followed else run.model
    return Costs(
        hidden_size=run.model.hidden_size,
        tokens=tokens_of(run.model, side),
        training=run.training,
        student_flop=partial(backbone_flop, run.model, experiment.data),
        teacher_flop=partial(backbone_flop, teacher, experiment.data),
    )


def work_seconds(work: Mapping[str, float], rates: Mapping[str, float]) -> float:
    """Seconds that work takes at the TFLOP/s of each arithmetic; fp16 is as fast as bf16."""
    return sum(
        flop / (rates["bf16" if arithmetic == "fp16" else arithmetic] * 1e12)
        for arithmetic, flop in work.items()
    )
