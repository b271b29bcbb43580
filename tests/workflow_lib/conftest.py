"""Studies of tiny experiments, without Snakemake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

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
