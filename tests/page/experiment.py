"""A finished experiment with all that a page may show."""

import contextlib
from pathlib import Path
from typing import Any

import yaml

from tests.support import REPOSITORY
from tests.support.experiments import tiny_values
from tests.support.finished import FinishedExperiment
from workflow.lib.study import Study

LABEL = "+ stage 1 & <b>bold</b> </script><img src=x onerror=alert(1)>"
SEEDS, STEPS = (0, 1, 2), (4, 8, 20)
CHANGES = {
    "description": "What is asked, <i>in a sentence</i>.",
    "seeds": list(SEEDS),
    "training.checkpoints": list(STEPS),
    "runs.sit.label": "SiT",
    "runs.vae-align.label": LABEL,
    "figures.sample_checkpoints": [4],
    "analysis": {},
    "grids": {"w": {"run": "self-transcendence", "vary": {"alignment.guidance_scale": [2, 5]}}},
    "evaluation.samplers": {
        "ode": {"sampler": "euler", "num_steps": 2, "num_samples": 30},
        "cfg": {
            "sampler": "heun", "num_steps": 2, "num_samples": 30, "guidance": {"scale": 1.5},
            "checkpoints": "last",
        },
    },
}  # fmt: skip


def finish(directory: Path, **changes: Any) -> FinishedExperiment:
    """A finished experiment below ``directory``, which must be the working directory."""
    path = directory / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_values(**changes), sort_keys=False))
    with contextlib.chdir(REPOSITORY):
        study = Study.load({"experiments": (str(path),)})
    return FinishedExperiment(study)
