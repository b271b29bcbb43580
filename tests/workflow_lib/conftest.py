"""Studies of tiny experiments, without Snakemake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.experiments import tiny_values
from workflow.lib.study import Study

IMPORTED = {"file": "public.pt", "convention": "noise-at-1", "step": 5}


class SharingStudy(Study):
    """A study in which another experiment owns results, as an extension's parent would."""

    owners: dict[str, str] = {}  # noqa: RUF012

    def run_owner(self, experiment: str, run: str) -> str:
        return self.owners.get(run, experiment)

    def samples_owner(self, experiment: str, run: str, sampler: str) -> str:
        return self.owners.get(f"samples of {run}", experiment)


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
