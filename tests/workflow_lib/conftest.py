"""Studies of tiny experiments, without Snakemake."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import REPOSITORY
from tests.support.experiments import tiny_values
from workflow.lib.study import Study


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """Write tiny experiments, given by their changes, and load them in one study."""

    def make(*changes: dict[str, Any], kind: type[Study] = Study, **settings: Any) -> Study:
        references = []
        for number, change in enumerate(changes or ({},)):
            name = change.get("name", f"tiny{number}" if number else "tiny")
            path = tmp_path / f"{name}.yaml"
            path.write_text(
                yaml.safe_dump(tiny_values(**{"name": name, **change}), sort_keys=False)
            )
            references.append(str(path))
        return kind.load({"experiments": tuple(references), **settings})

    return make


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with the experiment ``tiny`` and no results, where commands are called."""
    folder = tmp_path / "project"
    (folder / "experiments").mkdir(parents=True)
    for name in ("Snakefile", "workflow", "experiments/data"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "experiments/tiny.yaml").write_text(yaml.safe_dump(tiny_values(), sort_keys=False))
    (folder / "config.yaml").write_text("experiments: [tiny]\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])  # where a command adds its project
    return folder
