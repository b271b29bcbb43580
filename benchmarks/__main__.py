"""Run every benchmark: a table on the terminal, and results/benchmarks.json.

``make bench``, or ``make bench ONLY="stage_2 batches"`` for some.
"""

import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.data import batches, decoding, imagenet_store, latent_loading
from benchmarks.evaluation import frechet, inception_features, manifold, statistics_memory
from benchmarks.lifecycle import digits_lifecycle, planning, presets_dag
from benchmarks.methods import methods
from benchmarks.sampling import sampling
from benchmarks.timing import HEADER, Result, matmul_rate
from benchmarks.training import (
    bf16_gain,
    matmul_share,
    optimizer_and_ema,
    stage_2,
    teacher_precision,
)
from selftrans.runtime.files import write_json

BENCHMARKS = (
    stage_2, methods, sampling, teacher_precision, bf16_gain, matmul_share, optimizer_and_ema,
    decoding, latent_loading, imagenet_store, batches, frechet, manifold, statistics_memory,
    inception_features, planning, presets_dag, digits_lifecycle,
)  # fmt: skip


def chosen(names: list[str]) -> list[Callable[[], Iterator[Result]]]:
    """The benchmarks of those names; all, if there are none."""
    known = {benchmark.__name__: benchmark for benchmark in BENCHMARKS}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"error: {unknown[0]!r} is no benchmark (allowed: {', '.join(known)})")
    return [known[name] for name in names] or list(BENCHMARKS)


def main() -> None:
    """Run and print one after the other."""
    torch.set_num_threads(1)
    rates = [matmul_rate(2560, 384, 1536, dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)]
    print(
        f"{platform.machine()}, one thread: "
        f"{rates[0]:.0f} GFLOP/s in fp32, {rates[1]:.0f} in bf16\n"
    )
    print(HEADER)
    results = []
    for benchmark in chosen(sys.argv[1:]):
        for result in benchmark():
            results.append(result.to_json())
            print(result.line(), flush=True)
    write_json(Path("results/benchmarks.json"), results)


if __name__ == "__main__":
    main()
