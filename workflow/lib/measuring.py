"""What this machine reaches, measured by a few steps of an experiment's own training."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selftrans.config import ExperimentConfig
from selftrans.flops import backbone_flop
from selftrans.runtime.devices import DeviceName
from selftrans.runtime.errors import UserError
from selftrans.training.work import segment_work
from workflow.lib.study import Study
from workflow.lib.training import Training
from workflow.lib.work import condition_size

if TYPE_CHECKING:
    import torch

SECONDS = 3.0
WARM_UP = 2


@dataclass(frozen=True)
class Rate:
    """What a training reaches here."""

    run: str
    device: str
    """Name of what computes."""
    images: int
    """On one card at a time."""
    cards: int
    """That the experiment trains on; 1 for a CPU."""
    seconds: float
    """For these images."""
    tflops: float
    """TFLOP/s of one card."""


def measure(study: Study, experiment: ExperimentConfig, device_name: DeviceName = "auto") -> Rate:
    """Train the largest backbone of an experiment on noise for a few steps, without alignment.

    As on one of its cards: with that card's share of a micro-batch, and the recipe's arithmetic.

    Raises:
        UserError: nothing is trained, or there is no such device.
    """
    import torch

    from selftrans.models.build import build_backbone
    from selftrans.runtime.devices import allow_tf32, claim_device, granted_gpus
    from selftrans.training.model import build_optimizer, prepare_blocks
    from selftrans.training.precision import MixedPrecision, resolve_precision

    if not experiment.trained_runs:
        raise UserError(f"--measure: experiment {experiment.name!r} trains nothing")

    shape = experiment.data.latent_shape
    name = max(
        experiment.trained_runs,
        key=lambda run: backbone_flop(experiment.runs[run].model, experiment.data),
    )
    run = experiment.runs[name]
    device = claim_device(granted_gpus(device_name))
    allow_tf32(run.training.tf32)
    cards = max(1, study.resources[experiment.name].train.gpu)
    size = max(1, run.training.batch_size // (cards * run.training.accumulate))
    condition = condition_size(experiment.data, run.model)
    backbone = build_backbone(run.model, shape, condition).to(device)
    prepare_blocks(backbone, run.training)
    optimizer = build_optimizer(list(backbone.parameters()), run.training)
    x_BCHW = torch.randn(size, *shape, device=device)
    t_B, condition_B = torch.rand(size, device=device), backbone.null_condition(size)
    precision = resolve_precision(run.training, backbone.shape.hidden_size, device)
    mixed = MixedPrecision(precision, device)
    steps, started = 0, 0.0
    while steps <= WARM_UP or time.perf_counter() - started < SECONDS:
        if steps == WARM_UP:
            _wait_for(device)
            started = time.perf_counter()
        with mixed.autocast():
            loss = (backbone(x_BCHW, t_B, condition_B) - x_BCHW).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        steps += 1
    _wait_for(device)
    seconds = (time.perf_counter() - started) / (steps - WARM_UP)
    flop = 3 * size * backbone_flop(run.model, experiment.data)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    return Rate(name, kind, size, cards, seconds, flop / seconds / 1e12)


def _wait_for(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_minutes(study: Study, tflops: float) -> dict[tuple[str, str], float]:
    """Minutes of every training of a seed at a measured rate, by its owner and run."""
    minutes: dict[tuple[str, str], float] = {}
    for job in Training(study, ancient=str).jobs():
        owner, run = job["experiment"], job["run"]
        if job["seed"] != study.seeds_of(owner, run)[0]:
            continue
        last = study.checkpoints_of(owner, run)[-1]
        settings = study.known[owner]
        work = segment_work(settings, settings.runs[run], 0, last)
        minutes[owner, run] = sum(work.values()) / (tflops * 1e12) / 60
    return minutes


def longest_chain(study: Study, minutes: dict[tuple[str, str], float]) -> tuple[list[str], float]:
    """The trainings that wait for each other longest, first to last, and their minutes."""

    def chain(owner: str, run: str, share: float) -> tuple[list[str], float]:
        before: tuple[list[str], float] = ([], 0.0)
        for teacher in study.known[owner].runs[run].teachers.values():
            source = study.run_owner(owner, teacher.choice.run)
            steps = study.checkpoints_of(source, teacher.choice.run) or (teacher.choice.step,)
            found = chain(source, teacher.choice.run, teacher.choice.step / steps[-1])
            before = max(before, found, key=lambda one: one[1])
        own = minutes.get((owner, run), 0.0) * share
        return [*before[0], run], before[1] + own

    return max((chain(owner, run, 1.0) for owner, run in minutes), key=lambda one: one[1])


def measured_report(study: Study, rate: Rate) -> str:
    """What the trainings take here, in words."""
    minutes = training_minutes(study, rate.cards * rate.tflops)
    seeds = {key: len(study.seeds_of(*key)) for key in minutes}
    total = sum(minutes[key] * seeds[key] for key in minutes)
    runs, longest = longest_chain(study, minutes)
    step = f"{1000 * rate.seconds:,.0f} ms for {rate.images} images of {rate.run}"
    cards = f" The experiment trains on {rate.cards} such cards." if rate.cards > 1 else ""
    lines = [
        f"Measured on {rate.device}: {step}, {rate.tflops:,.3g} TFLOP/s.{cards}",
        f"Trainings one after another: {_span(total)}.",
        f"Longest chain: {', then '.join(runs)}: {_span(longest)}.",
    ]
    return "\n".join(lines)


def _span(minutes: float) -> str:
    if minutes < 120:
        return f"{minutes:,.1f} minutes"
    return f"{minutes / 60:,.1f} hours" if minutes < 48 * 60 else f"{minutes / 60 / 24:,.1f} days"
