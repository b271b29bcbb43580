"""Run every benchmark: a table on the terminal, and results/benchmarks.json. ``make bench``."""

import platform
from pathlib import Path

import torch

from benchmarks.data import latent_loading
from benchmarks.timing import matmul_rate
from benchmarks.training import matmul_share, optimizer_and_ema, stage_2
from selftrans.runtime.files import write_json

BENCHMARKS = (stage_2, matmul_share, optimizer_and_ema, latent_loading)


def main() -> None:
    """Run and print one after the other."""
    torch.set_num_threads(1)
    rates = [matmul_rate(2560, 384, 1536, dtype, seconds=2.0) / 1e9 for dtype in (torch.float32, torch.bfloat16)]
    print(f"{platform.machine()}, one thread: {rates[0]:.0f} GFLOP/s in fp32, {rates[1]:.0f} in bf16\n")
    print(f"{'name':24} {'ours':>12} {'baseline':>12} {'ratio':>8}  unit")
    results = []
    for benchmark in BENCHMARKS:
        for result in benchmark():
            results.append(result.to_json())
            print(
                f"{result.name:24} {result.ours:12.5g} {result.baseline:12.5g} {result.ratio:8.3g}  {result.unit}",
                flush=True,
            )
    write_json(Path("results/benchmarks.json"), results)


if __name__ == "__main__":
    main()
