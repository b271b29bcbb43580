"""How many operations a network and a training take: a multiplication and an addition are two. Needs no torch."""

import math
from statistics import NormalDist

from selftrans.config import (
    Data,
    DigitsSource,
    Experiment,
    Model,
    Rates,
    Run,
    SelfTranscendence,
    Signal,
    Sra,
    TimeRange,
    Training,
    VaeAlignment,
)

FREQUENCIES = 256


def tokens_of(model: Model, side: int) -> int:
    """Tokens T of a latent."""
    return (side // model.patch_size) ** 2


def block_flop(model: Model, tokens: int) -> float:
    """Operations of one block for one sample: attention, MLP, modulation."""
    width = model.width
    attention = tokens * (8 * width**2 + 4 * tokens * width)
    mlp = tokens * 4 * width * int(width * model.mlp_ratio)
    return attention + mlp + 12 * width**2


def forward_flop(model: Model, latent_shape: tuple[int, int, int], blocks: int | None = None) -> float:
    """Operations of a backbone for one sample; of its embedders and first ``blocks``, if they are given."""
    tokens, width = tokens_of(model, latent_shape[1]), model.width
    patch = 2 * tokens * latent_shape[0] * model.patch_size**2 * width
    embedders = patch + 2 * (FREQUENCIES * width + width**2)
    if blocks is not None:
        return embedders + blocks * block_flop(model, tokens)
    return embedders + model.depth * block_flop(model, tokens) + patch + 4 * width**2


def parameters(model: Model, latent_shape: tuple[int, int, int], num_classes: int) -> int:
    """Numbers of a backbone, its fixed table of positions included."""
    width, patch = model.width, latent_shape[0] * model.patch_size**2
    hidden, head = int(width * model.mlp_ratio), width // model.heads
    block = 4 * width**2 + 4 * width + 2 * width * hidden + hidden + width + 6 * width * (width + 1)
    block += 4 * head if model.qk_norm else 0
    ends = patch * width + width + (patch + 2 * width) * (width + 1)
    embedders = FREQUENCIES * width + width + width * (width + 1) + (num_classes + 1) * width
    return model.depth * block + ends + embedders + tokens_of(model, latent_shape[1]) * width


def count_classes(data: Data) -> int:
    """Classes of a data set that is not there yet: ten digits, else ImageNet's."""
    return 10 if isinstance(data.source, DigitsSource) else 1000


def signal_flop(signal: Signal, experiment: Experiment, run: Run) -> float:
    """Operations of a training signal for one sample: passes without gradient through what it follows, and its projector."""
    shape, model, training = experiment.data.latent_shape, run.model, run.training
    hidden = getattr(signal, "projector_width", None) or 0
    per_token = 3 * 2 * tokens_of(model, shape[1])
    head = per_token * (2 * model.width * hidden + hidden**2)
    match signal:
        case SelfTranscendence():  # samples out of range are not computed
            teacher = experiment.runs[signal.teacher.run].model
            followed = 2 * forward_flop(teacher, shape, signal.teacher_depth)
            return share_in_range(signal.t_range, training) * (followed + head)
        case VaeAlignment():
            return share_in_range(signal.t_range, training) * head
        case Sra():
            head = per_token * 2 * model.width * (hidden or 2 * model.width)
            return forward_flop(model, shape, signal.teacher_depth) + head
        case _:
            return head


def share_in_range(t_range: TimeRange, training: Training) -> float:
    """Part of the samples whose t is in a range."""

    def below(t: float) -> float:
        if training.time == "uniform" or t in {0.0, 1.0}:
            return t
        sigma = t / (1 - t) if training.path == "linear" else math.tan(math.pi * t / 2)
        return NormalDist().cdf(math.log(sigma))

    return below(t_range.high) - below(t_range.low)


def segment_flop(experiment: Experiment, run: Run, before: int, step: int) -> float:
    """Operations of training a run from one step to another, on the global batch."""
    training, shape = run.training, experiment.data.latent_shape
    passes = 4 if training.activation_checkpointing else 3
    flop = (step - before) * passes * forward_flop(run.model, shape)
    for signal in run.signals:
        last = signal.stop_after or step
        flop += (min(step, last) - min(before, last)) * signal_flop(signal, experiment, run)
    return flop * training.batch_size


def segment_minutes(experiment: Experiment, run: Run, before: int, step: int, rates: Rates, gpus: int) -> float:
    """Minutes that training from one step to another takes on so many GPUs, by stated rates."""
    rate = rates.model_dump()[arithmetic_of(run.training)] * 1e12
    return segment_flop(experiment, run, before, step) / rate / gpus / 60


def arithmetic_of(training: Training) -> str:
    """Which rate a training runs at, on a GPU."""
    if training.precision != "fp32":
        return "bf16"
    return "tf32" if training.tf32 else "fp32"
