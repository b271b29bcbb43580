"""The embedded experiment from scratch to its figures, and where the time goes."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from benchmarks.timing import Result

CORES = 2
PARTS = {
    "training": ("train-",),
    "sampling": ("generate-",),
    "statistics": ("statistics-", "reference-", "metrics-"),
    "autoencoder_and_classifier": ("autoencoder", "classifier", "latents"),
}
STARTS = {
    "training": "selftrans.training.trainer",
    "sampling": "selftrans.sampling.generate, diffusers.models",
}


def digits_lifecycle() -> Iterator[Result]:
    """Wall time of the default experiment on two cores, and the shares of its largest parts.

    The baseline is the sum of its jobs' seconds, divided evenly among the cores.
    """
    with TemporaryDirectory() as name:
        place = Path(name)
        for item in ("Snakefile", "config.yaml", "workflow", "profiles", "experiments", "envs"):
            (shutil.copytree if Path(item).is_dir() else shutil.copy)(item, place / item)
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", str(CORES), "--quiet", "all"], cwd=place,
            env=environment, check=True,
        )  # fmt: skip
        wall = time.perf_counter() - started
        files = list(place.glob("results/**/benchmarks/*.tsv"))
        seconds = pd.Series([_seconds(path) for path in files], index=[path.stem for path in files])
    total = float(seconds.sum())
    yield Result(
        name=f"digits_lifecycle_{CORES}_cores", ours=wall, baseline=total / CORES,
        ratio=total / CORES / wall, unit="s",
        note=f"{len(seconds)} jobs; baseline: their {total:.0f} s shared evenly by the cores",
    )  # fmt: skip
    for part, prefixes in PARTS.items():
        own = seconds[seconds.index.str.startswith(prefixes)]
        yield Result(
            name=f"digits_{part}", ours=float(own.sum()), baseline=total,
            ratio=float(own.sum()) / total, unit="s",
            note=f"share of all jobs' seconds, {len(own)} jobs",
        )  # fmt: skip
    for part, modules in STARTS.items():
        count = int(seconds.index.str.startswith(PARTS[part]).sum())
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
        start_up = count * (time.perf_counter() - started)
        yield Result(
            name=f"digits_{part}_imports", ours=start_up, baseline=total, ratio=start_up / total,
            unit="s", note=f"imports of {count} jobs, share of all jobs' seconds",
        )  # fmt: skip


def presets_dag() -> Iterator[Result]:
    """Time Snakemake takes to plan every shipped experiment together, without any data."""
    names = sorted(path.stem for path in Path("experiments").glob("*.yaml"))
    with TemporaryDirectory() as name:
        for item in ("Snakefile", "config.yaml", "workflow", "profiles", "experiments", "envs"):
            (Path(name) / item).symlink_to(Path(item).resolve())
        words = [
            sys.executable,
            "-m",
            "snakemake",
            "-n",
            "--cores",
            "8",
            "--config",
            f"experiments=[{','.join(names)}]",
        ]
        started = time.perf_counter()
        ended = subprocess.run(words, cwd=name, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - started
    jobs = next(line.split()[1] for line in ended.stdout.splitlines() if line.startswith("total "))
    yield Result(
        name="presets_dag", ours=seconds, baseline=20.0, ratio=20.0 / seconds, unit="s",
        note=f"{len(names)} experiments, {jobs} jobs; baseline: 20 seconds",
    )  # fmt: skip


def _seconds(path: Path) -> float:
    return float(pd.read_csv(path, sep="\t")["s"].iloc[0])
