"""Prefetching: what is there is found, what is not is named, all of it in one go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import REPOSITORY
from tests.support.experiments import tiny_values
from tests.support.random_models import save_autoencoder

pytestmark = pytest.mark.slow


def prefetch(tmp_path, *words):
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "cache"),
        "SELFTRANS_CACHE": str(tmp_path),
    }
    command = [sys.executable, "-m", "selftrans", "prefetch", *map(str, words)]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def experiment(tmp_path, **data):
    values = {
        "source": {"kind": "folder", "path": "nowhere"}, "image_size": 32,
        "autoencoder": {"kind": "pretrained", "path": "somebody/some-vae", "downsampling": 4},
        **data,
    }  # fmt: skip
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(values))
    path = tmp_path / "mine.yaml"
    changes = {"data": "data.yaml", "evaluation.extractor": "inception"}
    path.write_text(yaml.safe_dump(tiny_values(**changes)))
    return path


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    ended = prefetch(tmp_path, experiment(tmp_path, reference="data/own.npz"))
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "error: 4 of 4 not there: images of data, autoencoder somebody/some-vae, "
        "weights of inception, reference "
    )
    assert "fetch it once: hf download somebody/some-vae" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_is_in_the_caches_is_found_without_a_network(tmp_path):
    made = save_autoencoder(tmp_path / "made")
    snapshot = tmp_path / "cache/hub/models--somebody--some-vae/snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in Path(made).iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0" * 40)
    ended = prefetch(
        tmp_path, experiment(tmp_path, source={"kind": "folder", "path": str(tmp_path)})
    )
    assert "autoencoder somebody/some-vae: there" in ended.stderr
    assert "images of data: there" in ended.stderr
    assert (
        ended.stderr.strip()
        .splitlines()[-1]
        .startswith("error: 1 of 3 not there: weights of inception;")
    )


def test_weights_are_where_the_command_line_says(tmp_path):
    path = experiment(tmp_path, source={"kind": "folder", "path": str(tmp_path)})
    ended = prefetch(tmp_path, path, "--weights", f"inception={tmp_path / 'none.pth'}")
    assert f"{tmp_path / 'none.pth'}: no such file" in ended.stderr
    ended = prefetch(tmp_path, path, "--weights", "resnet=here.pth")
    assert ended.stderr.startswith("error: --weights: weights.resnet")


def test_the_embedded_experiment_needs_nothing_from_elsewhere(tmp_path):
    ended = prefetch(tmp_path, "digits")
    assert ended.returncode == 0
    assert "nothing is missing" in ended.stderr
