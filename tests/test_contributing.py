"""CONTRIBUTING.md's example of a further method, put into a copy of the package as it says, and trained."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from selftrans.runtime.tensors import load_tensors
from selftrans.training.progress import HISTORY_COLUMNS
from tests.support import REPOSITORY
from tests.support.experiments import TINY
from tests.support.workplace import copy_project

pytestmark = pytest.mark.slow

ARM = {
    "alignment": [
        {"method": "mean-teacher", "depth": 2},
        {"method": "layersync", "student_depth": 1, "teacher_depth": 3},
    ]
}


def test_the_example_method_trains(tmp_path, manifest):
    keys, registration, formula = re.findall(
        r"```python\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    assert registration.count("\n") == 1
    assert formula.count("\n") < 100
    copy_project(tmp_path, "selftrans", "experiments")
    settings = tmp_path / "selftrans/config.py"
    text = settings.read_text()
    (line,) = re.findall(r"^BuiltInAlignment = .*\n", text, re.MULTILINE)
    assert registration.startswith(
        line.split("  #")[0].strip()
    )  # the line that is there, and one name more
    settings.write_text(text.replace(line, f"{keys}\n\n{registration}"))
    (tmp_path / "selftrans/alignment/mean_teacher.py").write_text(formula)
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(
        yaml.safe_dump({**TINY, "name": "mine", "runs": {"mine": ARM}}, sort_keys=False)
    )

    def trained(depth):
        experiment.write_text(experiment.read_text().replace("depth: 2\n", f"depth: {depth}\n", 1))
        words = [
            "--run",
            "mine",
            "--seed",
            0,
            "--until",
            8,
            "--latents",
            manifest,
            "--directory",
            tmp_path / "run",
        ]
        command = [sys.executable, "-m", "selftrans.training", experiment, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    ended = trained(2)
    assert ended.returncode == 0, ended.stderr
    tensors, _ = load_tensors(tmp_path / "run/state/step-00000008.safetensors", "state")
    alignment = tensors["history"][:, HISTORY_COLUMNS.index("alignment")]
    cosine = tensors["history"][:, HISTORY_COLUMNS.index("cosine")]
    assert alignment.isfinite().all()
    assert alignment.any()
    assert (
        cosine > 0.5
    ).all()  # the average is near the model, and LayerSync's blocks are near each other
    fresh = trained(5)
    assert fresh.returncode == 1
    assert "runs.mine.alignment.0.depth: 5 is beyond the model's 4 blocks" in fresh.stderr
