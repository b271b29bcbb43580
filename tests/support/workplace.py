"""A copy of the workflow in a directory of its own, where Snakemake runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support import REPOSITORY
from tests.support.experiments import tiny_values
from tests.support.warm import warm_environment

WORKFLOW = ("Snakefile", "config.yaml", "workflow", "profiles", "experiments", "envs")
DATA = {
    "source": {"kind": "digits"},
    "image_size": 32,
    "autoencoder": {
        "kind": "trained", "block_channels": [8, 8, 8], "norm_groups": 4, "steps": 3,
        "batch_size": 16,
    },
    "classifier": {"width": 8, "features": 8, "steps": 3, "batch_size": 32},
    "encoders": {
        "stand-in": {"kind": "trained", "hidden_size": 16, "depth": 2, "num_heads": 2, "steps": 3},
    },
}  # fmt: skip
"""The digits, with an autoencoder, a classifier and an encoder that take seconds."""


def copy_project(directory: Path, *names: str) -> None:
    """Copy files and directories of this repository to the same paths below ``directory``."""
    for name in names:
        source, copy = REPOSITORY / name, directory / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)


class Workplace:
    """A copy of the workflow, with tiny data.

    Args:
        directory: where it lies.
        changes: what every experiment that is written changes of the tiny one.

    Attributes:
        warm: whether programs are forked from a process that has imported their libraries.
    """

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.directory, self.changes = directory, {"data": "tiny", **changes}
        self.warm = True
        copy_project(directory, *WORKFLOW)
        (directory / "experiments/data/tiny.yaml").write_text(yaml.safe_dump(DATA))

    def copied(self, directory: Path) -> "Workplace":
        """This workplace as it is now, results included, in another directory."""
        shutil.copytree(self.directory, directory, symlinks=True)
        copy = Workplace.__new__(Workplace)
        copy.directory, copy.changes, copy.warm = directory, self.changes, self.warm
        return copy

    def write(self, name: str, **changes: Any) -> None:
        """Write a tiny experiment with changes, each by its key."""
        values = {**tiny_values(**{**self.changes, **changes}), "name": name}
        (self.directory / f"experiments/{name}.yaml").write_text(
            yaml.safe_dump(values, sort_keys=False)
        )

    def configure(self, *experiments: str, **settings: Any) -> None:
        """Write ``config.yaml``."""
        content = {"experiments": list(experiments), **settings}
        (self.directory / "config.yaml").write_text(yaml.safe_dump(content))

    def command(self, *words: str, experiments: tuple[str, ...] = ()) -> list[str]:
        """Snakemake on two cores; without experiments, on those of ``config.yaml``."""
        chosen = ["--config", f"experiments=[{','.join(experiments)}]"] if experiments else []
        cores = [] if "--cores" in words else ["--cores", "2"]
        return ["snakemake", *words, *cores, *chosen]

    def snakemake(self, *words: str, experiments: tuple[str, ...] = ()) -> Any:
        """Run Snakemake to its end."""
        command = self.command(*words, experiments=experiments)
        environment = {**os.environ, **warm_environment()} if self.warm else None
        return subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True
        )

    def run(self, *words: str, experiments: tuple[str, ...] = ()) -> Any:
        """Run Snakemake, which must succeed."""
        ended = self.snakemake(*words, experiments=experiments)
        assert ended.returncode == 0, ended.stdout + ended.stderr + self.logs()
        return ended

    def planned(self, *words: str, experiments: tuple[str, ...] = ()) -> dict[str, int]:
        """Jobs that a dry run announces: rule -> number."""
        ended = self.run("-n", *words, experiments=experiments)
        output = ended.stdout + ended.stderr
        table = re.search(r"job\s+count\n[- ]+\n(.*?)\ntotal", output, re.DOTALL)
        if table is None:
            assert "Nothing to be done" in output
            return {}
        counts = dict(line.split() for line in table[1].splitlines())
        return {
            rule: int(count)
            for rule, count in counts.items()
            if rule not in ("all", "evaluate", "figures", "page", "train")
        }

    def logs(self) -> str:
        """The ends of all logs of jobs."""
        return "\n".join(
            path.read_text()[-500:] for path in self.directory.glob("results/**/logs/*.log")
        )

    def path(self, pattern: str) -> Path:
        """A path below the results."""
        return self.directory / "results" / pattern

    def written(self, pattern: str = "**/*") -> dict[Path, int]:
        """When each result file was written."""
        return {
            path: path.stat().st_mtime_ns for path in self.path("").glob(pattern) if path.is_file()
        }
