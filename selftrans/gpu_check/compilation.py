"""``training.compile``: a graph for each block, and no other one while masks change."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch._dynamo.utils import counters

from selftrans.config import BackboneConfig
from selftrans.gpu_check.cases import methods
from selftrans.gpu_check.checks import Check, Finding
from selftrans.gpu_check.numerics import require_bf16
from selftrans.gpu_check.steps import TrainingStep
from selftrans.gpu_check.workbench import Workbench

CLOSE = 0.02
"""Tolerated relative difference of a loss after a few steps."""
TOLERANCE = (
    "No graph break, and no graph that is compiled after the first step, while the number of"
    " samples in range changes from step to step: the compiled blocks see the whole batch, the"
    f" mask acts behind them. The loss may differ from that without by {CLOSE:.0%} after these"
    " steps: fused kernels round bf16 elsewhere, and AdamW's first steps amplify it."
)


class Run(NamedTuple):
    """A stage-2 training over some steps whose masks change."""

    loss: float
    """After the last step."""
    seconds: float
    """Of a step."""
    first_graphs: int
    """That the first step compiled."""
    later_graphs: int
    breaks: int


def run(bench: Workbench, model: BackboneConfig, *, compiled: bool) -> Run:
    """Train with a mask that leaves another number of samples at every step."""
    sizes = bench.sizes
    method = methods(model.depth, sizes.projector_width)["stage 2"]
    torch._dynamo.reset()
    counters.clear()
    step = TrainingStep(bench, model, method, "bf16", sizes.timed_batch, compiled=compiled)
    graphs, loss = [], float("nan")
    for number in range(sizes.compile_steps):
        step.resize(sizes.timed_batch, number % (sizes.timed_batch + 1), seed=number)
        loss = float(step().loss)
        graphs.append(counters["stats"]["unique_graphs"])
    (seconds,) = bench.seconds(step)
    breaks = sum(counters["graph_break"].values())
    return Run(loss, seconds, graphs[0], graphs[-1] - graphs[0], breaks)


def find_compiled(bench: Workbench, model: BackboneConfig) -> Finding:
    """Graph breaks and graphs of a training whose mask changes, and what compiling gains."""
    if bench.on_gpu:
        require_bf16()
    one = run(bench, model, compiled=True)
    bench.free()
    plain = run(bench, model, compiled=False)
    difference, gain = abs(one.loss / plain.loss - 1), plain.seconds / one.seconds
    text = (
        f"{one.breaks} graph breaks, {one.first_graphs} graphs at first and {one.later_graphs}"
        f" later, loss {difference:.1e} beside the plain one's (≤ {CLOSE:.0e}),"
        f" {1000 * one.seconds:.1f} ms a step, {1000 * plain.seconds:.1f} without: {gain:.2f} times"
        " as fast"
    )
    values = {
        "graph breaks": float(one.breaks),
        "graphs": float(one.first_graphs),
        "later graphs": float(one.later_graphs),
        "difference": difference,
        "compiled": one.seconds,
        "plain": plain.seconds,
    }
    sound = one.breaks == one.later_graphs == 0 and one.first_graphs > 0
    return Finding(text, values, sound and difference <= CLOSE)


def compilation(bench: Workbench) -> Iterator[Check]:
    """Of every timed backbone."""
    for name, model in bench.sizes.timed.items():
        yield Check(f"{name}, stage 2 with changing masks", partial(find_compiled, bench, model))
