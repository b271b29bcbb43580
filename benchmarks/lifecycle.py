"""The embedded experiment from scratch to its figures, and what planning experiments takes."""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from benchmarks.timing import Result

CORES = 2
WORKFLOW = ("Snakefile", "config.yaml", "workflow", "profiles", "experiments", "envs")
PLAN = ("-m", "snakemake", "-n", "--cores", "8")
IMPORTS = "import snakemake.cli, snakemake.api, snakemake.workflow, snakemake.dag"
EXPERIMENTS = ("ten-seeds.yaml", "digits")
TEN_SEEDS = "{name: ten-seeds, extends: imagenet256-b2-methods, seeds: [0,1,2,3,4,5,6,7,8,9]}"
BARE = """
rule all:
    input: [f"{{number}}.txt" for number in range({jobs})]

rule one:
    output: "{{number}}.txt"
    log: "{{number}}.log"
    shell: "touch {{output}} > {{log}}"
"""
"""A Snakefile of as many jobs, none of which depends on another or calls a function."""
PARTS = {
    "training": ("train-",),
    "sampling": ("generate-",),
    "statistics": ("statistics-", "reference-", "metrics-"),
    "autoencoder_and_classifier": ("autoencoder", "classifier", "latents"),
}


def digits_lifecycle() -> Iterator[Result]:
    """Time and CPU time of the default experiment on two cores, and the shares of its parts.

    The baseline starts a process of its own for each job (``fork_jobs: false``).
    """
    with TemporaryDirectory() as name:
        forked, alone = (_lifecycle(Path(name) / fork, fork) for fork in ("true", "false"))
    for of, ours, baseline in (
        ("cores", forked.wall, alone.wall),
        ("cores_cpu", forked.cpu, alone.cpu),
    ):
        yield Result(
            name=f"digits_lifecycle_{CORES}_{of}", ours=ours, baseline=baseline,
            ratio=baseline / ours, unit="s" if of == "cores" else "s of CPU",
            note=f"{len(forked.seconds)} jobs, Snakemake included; baseline: none of them forked",
        )  # fmt: skip
    total = float(forked.seconds.sum())
    for part, prefixes in PARTS.items():
        own = forked.seconds[forked.seconds.index.str.startswith(prefixes)]
        yield Result(
            name=f"digits_{part}", ours=float(own.sum()), baseline=total,
            ratio=float(own.sum()) / total, unit="s",
            note=f"share of all jobs' seconds, {len(own)} jobs",
        )  # fmt: skip


@dataclass(frozen=True)
class _Lifecycle:
    wall: float
    cpu: float
    seconds: pd.Series
    """Of each job, on the clock."""


def _lifecycle(place: Path, fork: str) -> _Lifecycle:
    place.mkdir()
    for item in WORKFLOW:
        (shutil.copytree if Path(item).is_dir() else shutil.copy)(item, place / item)
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    started, before = time.perf_counter(), _cpu_of_children()
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", str(CORES), "--quiet", "all", "--config",
         f"fork_jobs={fork}"], cwd=place, env=environment, check=True,
    )  # fmt: skip
    wall, cpu = time.perf_counter() - started, _cpu_of_children() - before
    files = list(place.glob("results/**/benchmarks/*.tsv"))
    return _Lifecycle(wall, cpu, pd.Series([*map(_seconds, files)], [path.stem for path in files]))


def planning() -> Iterator[Result]:
    """CPU time of dry runs: of the default experiment, and by the job beyond importing Snakemake.

    Of ten seeds of all methods, and of a bare Snakefile of as many jobs; in turns, medians of 3.
    """
    with TemporaryDirectory() as name:
        place, bare = Path(name), Path(name) / "bare"
        for item in WORKFLOW:
            (place / item).symlink_to(Path(item).resolve())
        (place / "ten-seeds.yaml").write_text(TEN_SEEDS)
        ten, digits = ([*PLAN, "--config", f"experiments=[{one}]"] for one in EXPERIMENTS)
        jobs = _jobs(_planned(place, ten)[1])
        bare.mkdir()
        (bare / "Snakefile").write_text(BARE.format(jobs=jobs - 1))
        calls = ((place, ten), (bare, [*PLAN]), (place, digits), (bare, ["-c", IMPORTS]))
        seconds = [[_planned(*call)[0] for call in calls] for _ in range(3)]
    of_ten, of_bare, of_digits, imports = map(statistics.median, zip(*seconds, strict=True))
    ours, floor = (1000 * (one - imports) / jobs for one in (of_ten, of_bare))
    yield Result(
        name="plan_1000_jobs", ours=ours, baseline=floor, ratio=floor / ours, unit="s of CPU",
        note=f"ten seeds of imagenet256-b2-methods, {jobs} jobs, without imports ({imports:.1f} s);"
        " baseline: a Snakefile of as many jobs without functions or inputs",
    )  # fmt: skip
    yield Result(
        name="plan_digits", ours=of_digits, baseline=imports, ratio=imports / of_digits,
        unit="s of CPU", note="the default experiment; baseline: importing Snakemake",
    )  # fmt: skip


def presets_dag() -> Iterator[Result]:
    """Time Snakemake takes to plan every shipped experiment together, without any data."""
    names = sorted(path.stem for path in Path("experiments").glob("*.yaml"))
    with TemporaryDirectory() as name:
        for item in WORKFLOW:
            (Path(name) / item).symlink_to(Path(item).resolve())
        words = [*PLAN, "--config", f"experiments=[{','.join(names)}]"]
        started = time.perf_counter()
        jobs = _jobs(_planned(Path(name), words)[1])
        seconds = time.perf_counter() - started
    yield Result(
        name="presets_dag", ours=seconds, baseline=20.0, ratio=20.0 / seconds, unit="s",
        note=f"{len(names)} experiments, {jobs} jobs; baseline: 20 seconds",
    )  # fmt: skip


def _planned(directory: Path, words: list[str]) -> tuple[float, str]:
    """Seconds of CPU of a call of Python, and what it says."""
    before = _cpu_of_children()
    ended = subprocess.run(
        [sys.executable, *words], cwd=directory, capture_output=True, text=True, check=True
    )
    return _cpu_of_children() - before, ended.stdout


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _jobs(said: str) -> int:
    return int(next(line.split()[1] for line in said.splitlines() if line.startswith("total ")))


def _seconds(path: Path) -> float:
    return float(pd.read_csv(path, sep="\t")["s"].iloc[0])
