"""Snakemake is killed, its job lives on: the same command waits for it and takes what it makes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from selftrans.data.store import LatentStore
from selftrans.runtime.files import read_json
from tests.support.workplace import DATA, Workplace

pytestmark = pytest.mark.workflow

WEIGHTS = "results/orphan/runs/sit/seed0/checkpoints/4/ema.safetensors"
SAMPLES = "results/orphan/runs/sit/seed0/samples/4/ode-n300/samples.npz"
LATENTS = "results/data/orphan/latents/manifest.json"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One trained checkpoint, whose generation takes a while, as does the extraction."""
    made = Workplace(tmp_path_factory.mktemp("place"))
    data = {**DATA, "latents": {"shard_size": 32}}
    (made.directory / "experiments/data/orphan.yaml").write_text(yaml.safe_dump(data))
    made.write(
        "orphan",
        data="orphan",
        runs={"sit": {}},
        **{
            "training.checkpoints": [4],
            "evaluation.samplers.ode": {"sampler": "euler", "num_steps": 20, "num_samples": 300},
            "figures.sample_checkpoints": [4],
            "resources": {"generate": {"processes": 2, "batch_size": 16}},
        },
    )
    made.configure("orphan")
    made.run(WEIGHTS)
    return made


def killed_and_run_again(place: Workplace, target: str, folder: Path, pieces: str, log: str) -> str:
    """Kill Snakemake in the middle of its job, run the same command; returns the new job's log.

    The job that lives on is suspended until the new one has seen it.
    """
    process = subprocess.Popen(
        place.command(target), cwd=place.directory, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _wait_for(lambda: len(list((place.directory / folder).glob(pieces))) >= 2)
    (owner,) = (place.directory / folder).glob("*owner.json")
    worker = int(read_json(owner)["pid"])
    os.kill(worker, signal.SIGSTOP)
    process.send_signal(signal.SIGKILL)
    process.wait()
    unlocked = subprocess.run(["snakemake", "--unlock"], cwd=place.directory, capture_output=True)
    assert unlocked.returncode == 0
    again = subprocess.Popen(
        place.command(target), cwd=place.directory, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = place.directory / log
    _wait_for(lambda: said.is_file() and f"for process {worker}" in said.read_text())
    os.kill(worker, signal.SIGCONT)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    return said.read_text()


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def forget(place: Workplace, *patterns: str) -> None:
    for pattern in patterns:
        for path in place.directory.glob(pattern):
            path.unlink()


def test_a_generation_that_outlives_its_snakemake_is_taken(place):
    folder = Path(SAMPLES).parent
    place.run(SAMPLES)
    with np.load(place.directory / SAMPLES) as archive:
        expected = archive["arr_0"]
    for _ in range(int(os.environ.get("KILLS", "1"))):
        forget(place, f"{folder}/*")
        log = "results/orphan/runs/sit/seed0/logs/generate-4-ode-n300.log"
        said = killed_and_run_again(place, SAMPLES, folder, "samples.partial/*.npy", log)
        assert "taken as it is" in said
        assert "sampling:" not in said  # nothing is drawn again
        with np.load(place.directory / SAMPLES) as archive:
            assert np.abs(archive["arr_0"].astype(int) - expected.astype(int)).max() <= 1
        left = sorted(path.name for path in (place.directory / folder).iterdir())
        assert left == ["first.npz", "samples.json", "samples.npz"]


def test_an_extraction_that_outlives_its_snakemake_is_taken(place):
    folder = Path(LATENTS).parent
    digest = LatentStore(place.directory / LATENTS).manifest.digest
    for _ in range(int(os.environ.get("KILLS", "1"))):
        forget(place, f"{folder}/*")
        log = "results/data/orphan/logs/latents.log"
        said = killed_and_run_again(place, LATENTS, folder, "moments-*.npy", log)
        assert "encoding:" not in said  # every shard is the other process's
        store = LatentStore(place.directory / LATENTS)
        store.verify()
        assert store.manifest.digest == digest
        assert not list((place.directory / folder).glob("*owner*"))
