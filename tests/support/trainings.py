"""Trainings for tests: in this process, or by the command line."""

import os
import subprocess
import sys

import torch

from selftrans.config import load_experiment
from selftrans.runtime.tensors import load_tensors
from selftrans.training.input_paths import InputPaths
from selftrans.training.precision import make_accelerator
from selftrans.training.trainer import Segment, train
from tests.support import REPOSITORY
from tests.support.programs import run_command

ARMS = ("sit", "vae-align", "self-transcendence")
TAUGHT = ("self-transcendence", "every-method")
"""Runs with a term of stage 2, which bears the name of its method."""
"""Runs that follow a frozen teacher."""


class StopAt:
    """A stop request that arrives after a number of polls, as a signal would."""

    def __init__(self, polls=None):
        self.polls = polls

    @property
    def reason(self):
        if self.polls is None:
            return None
        self.polls -= 1
        return "SIGTERM" if self.polls < 0 else None


def run(
    path, arm, directory, manifest, *, until, teacher=None, features=None, encoder=None, stop=None
):
    """Train a segment in this process; the run gets those of the inputs that its terms read."""
    experiment = load_experiment(path)
    settings = experiment.runs[arm]
    read = {use.features for use in settings.encoders}
    inputs = InputPaths(
        teachers=dict.fromkeys(settings.teachers, teacher),
        features=(features,) if "store" in read else (),
        encoders=(encoder,) if "images" in read else (),
    )
    segment = Segment(
        experiment=experiment, run=arm, seed=0, until=until, latents=manifest, inputs=inputs,
        directory=directory,
    )  # fmt: skip
    train(segment, make_accelerator(on_gpu=False), stop or StopAt())


def everything(directory, step):
    """All of a state but the time it took."""
    tensors, metadata = load_tensors(directory / f"state/step-{step:08}.safetensors", "state")
    return tensors, metadata["digest"]


def assert_equal(first, second):
    assert first[0].keys() == second[0].keys()
    for name, tensor in first[0].items():
        torch.testing.assert_close(
            tensor, second[0][name], rtol=0, atol=0, equal_nan=True, msg=name
        )
    assert first[1] == second[1]


def assert_close(one, two):
    """The same training but for the rounding of sums in another order."""
    torch.testing.assert_close(two["history"], one["history"], rtol=2e-4, atol=1e-6, equal_nan=True)
    for name in one:
        if name.startswith(("model.", "ema.")) and not name.endswith("k_norm.bias"):
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-4, msg=name)


def words_of(path, arm, directory, manifest, until, teacher, *options):
    """A training's command line."""
    words = ["--run", arm, "--seed", 0, "--until", until]
    words += ["--latents", manifest, "--directory", directory, *options]
    if arm in TAUGHT:
        words += ["--teacher", f"self-transcendence={teacher}"]
    return list(map(str, [sys.executable, "-m", "selftrans", "train", path, *words]))


def command(*given):
    """A training by the command line, as a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        words_of(*given), cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )


def command_here(*given):
    """A training by the command line, within this process."""
    return run_command(*words_of(*given)[3:])
