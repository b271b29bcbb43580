"""``training.compile``: a graph for each block, and no other one while masks change."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

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


def find_compiled(bench: Workbench, model: BackboneConfig) -> Finding:
    """Graph breaks and graphs of a stage-2 training whose mask changes, and what it gains."""
    if bench.on_gpu:
        require_bf16()
    sizes = bench.sizes
    method = methods(model.depth, sizes.projector_width)["stage 2"]
    torch._dynamo.reset()
    counters.clear()
    compiled = TrainingStep(bench, model, method, "bf16", sizes.timed_batch, compiled=True)
    graphs: list[int] = []
    losses: dict[str, float] = {}
    (first,) = bench.seconds(compiled, most=1)
    for step in range(sizes.compile_steps):
        compiled.resize(sizes.timed_batch, step % (sizes.timed_batch + 1), seed=step)
        losses["compiled"] = float(compiled().loss)
        graphs.append(counters["stats"]["unique_graphs"])
    breaks = sum(counters["graph_break"].values())
    plain = TrainingStep(bench, model, method, "bf16", sizes.timed_batch)
    plain()
    plain()
    for step in range(sizes.compile_steps):
        plain.resize(sizes.timed_batch, step % (sizes.timed_batch + 1), seed=step)
        losses["plain"] = float(plain().loss)
    with_it, without = bench.seconds(compiled, plain)
    difference = abs(losses["compiled"] / losses["plain"] - 1)
    later = graphs[-1] - graphs[0]
    text = (
        f"{breaks} graph breaks, {graphs[0]} graphs at first and {later} later,"
        f" loss {difference:.1e} beside the plain one's (≤ {CLOSE:.0e}),"
        f" {1000 * with_it:.1f} ms a step, {1000 * without:.1f} without: "
        f"{without / with_it:.2f} times as fast"
    )
    values = {
        "graph breaks": float(breaks),
        "graphs": float(graphs[0]),
        "later graphs": float(later),
        "difference": difference,
        "first seconds": first,
        "compiled": with_it,
        "plain": without,
    }
    passed = breaks == 0 and later == 0 and graphs[0] > 0 and difference <= CLOSE
    return Finding(text, values, passed)


def compilation(bench: Workbench) -> Iterator[Check]:
    """Of every timed backbone."""
    for name, model in bench.sizes.timed.items():
        yield Check(f"{name}, stage 2 with changing masks", partial(find_compiled, bench, model))
