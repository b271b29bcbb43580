"""Trainings that are stopped by a signal and resumed, and what determinism costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from selftrans.gpu_check.cases import methods
from selftrans.gpu_check.checks import Check, Finding
from selftrans.gpu_check.steps import TrainingStep
from selftrans.gpu_check.trainings import (
    STAGE_1,
    STAGE_2,
    Trainings,
    determinism_restored,
    differing_tensors,
)
from selftrans.gpu_check.workbench import Workbench

TOLERANCE = (
    "None: with deterministic kernels a training that a signal stops and that resumes has the bits"
    " of an undisturbed one, in weights, average, moments and logged losses."
)


def find_resumed(trainings: Trainings, run: str) -> Finding:
    """Whether a run that SIGTERM stopped in the middle ends as the one that nothing stopped."""
    steps = trainings.bench.sizes.trained_steps
    trainings.train(run, f"{run}-whole", steps)
    said = trainings.interrupted(run, f"{run}-stopped", steps, polls=steps // 2)
    if "SIGTERM" not in said:
        return Finding(f"the signal did not stop it ({said!r})", passed=False)
    trainings.train(run, f"{run}-stopped", steps)
    whole, resumed = (trainings.state(f"{run}-{name}", steps) for name in ("whole", "stopped"))
    differing = differing_tensors(whole, resumed)
    text = (
        f"stopped at step {steps // 2} of {steps}, {len(differing)} of {len(whole)} tensors differ"
    )
    if differing:
        text += f", {differing[0]} first"
    return Finding(text, {"differing": float(len(differing))}, not differing)


def find_cost(bench: Workbench) -> Finding:
    """Seconds of a step with deterministic kernels over those without."""
    model = next(iter(bench.sizes.timed.values()))
    method = methods(model.depth, bench.sizes.projector_width)["stage 2"]
    step = TrainingStep(bench, model, method, "bf16", bench.sizes.timed_batch)

    def exactly() -> None:
        with determinism_restored():
            torch.use_deterministic_algorithms(True)
            step()

    exact, free = bench.seconds(exactly, step)
    text = (
        f"{1000 * exact:.1f} ms a step in bf16, {1000 * free:.1f} without: {exact / free:.2f} times"
    )
    return Finding(text, {"deterministic": exact, "free": free, "ratio": exact / free})


def resume(bench: Workbench) -> Iterator[Check]:
    """All of them."""
    for backbone, model in bench.sizes.stopped.items():
        folder = replace(bench, directory=bench.directory / "resume" / backbone)
        trainings = Trainings(folder, backbone=model)
        for run in (STAGE_1, STAGE_2):
            name = f"{backbone}, {run}, stopped by SIGTERM and resumed"
            yield Check(name, partial(find_resumed, trainings, run))
    yield Check("cost of deterministic kernels", partial(find_cost, bench))
