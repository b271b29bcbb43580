"""Trainings as the command ``selftrans train`` makes them, of random latents."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from selftrans.config import BackboneConfig, load_experiment
from selftrans.data.writer import StoreWriter
from selftrans.gpu_check.sizes import Sizes
from selftrans.gpu_check.workbench import Workbench
from selftrans.runtime.errors import Interrupted
from selftrans.runtime.signals import StopRequest
from selftrans.runtime.tensors import load_tensors
from selftrans.training.freeze import freeze_teacher
from selftrans.training.input_paths import InputPaths
from selftrans.training.precision import make_accelerator
from selftrans.training.trainer import Segment, train

STAGE_1, STAGE_2 = "stage-1", "stage-2"
STORED = 256
"""Images of the random store."""
LONG = 10**6
"""Steps of a training that is stopped long before."""


def write_random_store(directory: Path, sizes: Sizes) -> Path:
    """A latent store of random moments; returns its manifest."""
    rng = np.random.default_rng(0)
    writer = StoreWriter(directory, {}, STORED, shard_size=STORED)
    for number, start, stop in writer.ranges():
        moments = rng.standard_normal((stop - start, 2, *sizes.latent_shape))
        moments[:, 1] = 0.1 * np.abs(moments[:, 1])
        writer.write(number, moments.astype(np.float16))
    writer.finish(
        np.arange(STORED) % sizes.num_classes,
        class_names=tuple(map(str, range(sizes.num_classes))),
        latent_shape=sizes.latent_shape,
        image_size=sizes.image_size,
        dtype="float16",
        scale=1.0,
        shift=0.0,
        scale_origin="measured",
    )
    return directory / "manifest.json"


def write_random_captions(directory: Path, sizes: Sizes) -> Path:
    """A caption store of random features, one caption an image; returns its manifest."""
    rng = np.random.default_rng(1)
    writer = StoreWriter(directory, {}, STORED + 1, shard_size=STORED + 1, content="captions")
    writer.write(0, rng.standard_normal((STORED + 1, *sizes.caption_shape)).astype(np.float16))
    writer.finish_captions(
        [[""]] * STORED,
        sizes.caption_shape,
        encoder="random",
        encoder_digest="random",
        stand_in=True,
        truncated=0,
    )
    return directory / "manifest.json"


class Trainings:
    """Runs of both stages on a device.

    Args:
        bench: with the folder that they are written to.
        changes: to the recipe.
        backbone: what is trained; the first of ``Sizes.stopped``, if it is not given.
    """

    def __init__(
        self,
        bench: Workbench,
        changes: Mapping[str, Any] | None = None,
        backbone: BackboneConfig | None = None,
    ) -> None:
        self.bench, self.directory = bench, bench.directory
        sizes = bench.sizes
        backbone = backbone or next(iter(sizes.stopped.values()))
        shallow = backbone.depth // 2
        self.depth = max(shallow + 1, 2 * backbone.depth // 3)
        head = {"projector_width": sizes.projector_width}
        stage_2 = {
            "method": "self-transcendence",
            "teacher": {"run": STAGE_1, "step": sizes.trained_steps},
            "student_depth": shallow,
            "teacher_depth": self.depth,
            **head,
        }
        on_captions = backbone.condition == "caption"
        data: dict[str, Any] = {
            "source": {"kind": "uvit", "path": "none"} if on_captions else {"kind": "digits"},
            "image_size": sizes.image_size,
            "autoencoder": {
                "kind": "pretrained",
                "path": "none",
                "latent_channels": sizes.latent_shape[0],
                "downsampling": sizes.image_size // sizes.latent_shape[1],
            },
        }
        if on_captions:
            length, size = sizes.caption_shape
            data["text_encoder"] = {"kind": "prepared", "length": length, "size": size}
        data_path, self.experiment = (
            self.directory / f"{name}.yaml" for name in ("random", "experiment")
        )
        experiment = {
            "data": str(data_path),
            "model": backbone.model_dump(mode="json", exclude={"preset"}),
            "training": {
                "checkpoints": [sizes.trained_steps, 2 * sizes.trained_steps, LONG],
                "batch_size": sizes.trained_batch,
                "log_every": sizes.trained_steps,
                **(changes or {}),
            },
            "runs": {
                STAGE_1: {"alignment": {"method": "vae-alignment", "depth": 2, **head}},
                STAGE_2: {"alignment": stage_2},
            },
            "evaluation": {
                "extractor": "inception",
                "samplers": {"ode": {"sampler": "euler"}},
            },
            "figures": {"sampler": "ode", "sample_checkpoints": [sizes.trained_steps]},
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        for path, content in ((data_path, data), (self.experiment, experiment)):
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
        self.latents = self.directory / "latents/manifest.json"
        if not self.latents.exists():
            write_random_store(self.latents.parent, sizes)
        self.captions = self.directory / "captions/manifest.json" if on_captions else None
        if self.captions and not self.captions.exists():
            write_random_captions(self.captions.parent, sizes)

    def frozen_teacher(self) -> Path:
        """The frozen teacher: stage 1 is trained for it, once."""
        path = self.directory / "teacher.safetensors"
        if not path.exists():
            steps = self.bench.sizes.trained_steps
            self.train(STAGE_1, "stage-1", steps)
            weights = self.directory / f"stage-1/checkpoints/{steps}/raw.safetensors"
            freeze_teacher(weights, self.depth, path)
        return path

    def train(self, run: str, name: str, until: int, stop: StopRequest | None = None) -> None:
        """Train a run in this process, in a folder of that name.

        Raises:
            Interrupted: it was requested to stop.
        """
        experiment = load_experiment(self.experiment)
        settings = experiment.runs[run]
        training = settings.training
        teachers = {name: self.frozen_teacher() for name in settings.teachers}
        segment = Segment(
            experiment=experiment,
            run=run,
            seed=0,
            until=until,
            latents=self.latents,
            inputs=InputPaths(captions=self.captions, teachers=teachers),
            directory=self.directory / name,
        )
        request = stop or StopRequest()
        with determinism_restored():
            accelerator = make_accelerator(
                on_gpu=self.bench.on_gpu,
                tf32=training.tf32,
                deterministic=training.deterministic,
            )
            try:
                train(segment, accelerator, request)
            finally:
                request.release()

    def state(self, name: str, step: int) -> dict[str, Tensor]:
        """Everything that a run would resume from after a step."""
        path = self.directory / name / f"state/step-{step:08}.safetensors"
        return load_tensors(path, "state")[0]

    def interrupted(self, run: str, name: str, until: int, polls: int) -> str:
        """Train until a SIGTERM arrives after some steps; returns what the trainer says."""
        try:
            self.train(run, name, until, SignalAfter(polls))
        except Interrupted as error:
            return str(error)
        return ""


def differing_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors of two states whose bits differ."""
    assert first.keys() == second.keys()
    return [
        name
        for name, tensor in first.items()
        if not torch.equal(tensor.nan_to_num(), second[name].nan_to_num())
    ]


class SignalAfter(StopRequest):
    """A stop request to which this process sends itself the signal after some polls."""

    def __init__(self, polls: int) -> None:
        super().__init__()
        self._polls = polls

    @property
    def reason(self) -> str | None:
        """As of any request."""
        self._polls -= 1
        if self._polls == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().reason


@contextlib.contextmanager
def determinism_restored() -> Iterator[None]:
    """Kernels are as deterministic afterwards as they were before."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
