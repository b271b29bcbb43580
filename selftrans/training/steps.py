"""A training on one process, a step at a time: what ``train`` computes, without its files."""

from __future__ import annotations

from pathlib import Path

import torch

from selftrans.alignment.base import Batch
from selftrans.config import fingerprint
from selftrans.data.store import LatentStore
from selftrans.runtime.devices import tf32_allowed
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields
from selftrans.training.batches import local_batch_slices
from selftrans.training.definition import DEFINITION_FILE
from selftrans.training.ema import MovingAverage
from selftrans.training.inputs import Inputs
from selftrans.training.model import (
    StepLosses,
    accumulate,
    apply_gradient,
    batch_source,
    build_model,
    build_optimizer,
)
from selftrans.training.precision import MixedPrecision, make_accelerator, resolve_precision
from selftrans.training.progress import TrainingProgress
from selftrans.training.state import StateDirectory
from selftrans.training.trainer import Segment


class TrainingSteps:
    """A run's model with all that it follows, ready for its next optimizer step.

    Nothing is written.

    Args:
        segment: the run; it begins at the saved state of the step ``until``, or fresh for step 0.
        device: where to compute.

    Attributes:
        model: backbone and alignment losses with their heads.
        ema: average of the backbone.
        number: optimizer steps that are done.

    Raises:
        UserError: an input is missing or wrong, or there is no saved state of that step.
    """

    def __init__(self, segment: Segment, device: torch.device) -> None:
        self.segment, self.training, self.device = segment, segment.training, device
        self.store = LatentStore(segment.latents)
        self.inputs = Inputs.open(
            segment.experiment, segment.run, segment.seed, self.store, segment.inputs, device
        )
        self.accelerator = make_accelerator(
            on_gpu=device.type == "cuda",
            tf32=self.training.tf32,
            deterministic=self.training.deterministic,
        )
        self.model = build_model(
            segment.experiment, segment.run, self.store, segment.seed, self.inputs, device
        )
        average = MovingAverage(self.model.backbone, self.training.ema_decay)
        self.ema, self._update_average = average.average, average.update
        self.model.alignment.set_ema_model(self.ema)
        self._parameters = [one for one in self.model.parameters() if one.requires_grad]
        self.optimizer = build_optimizer(self._parameters, self.training)
        definition = segment.directory / DEFINITION_FILE
        stored = read_fields(definition, precision=str) if segment.until else {}
        self.mixed_precision = MixedPrecision(
            stored.get("precision")
            or resolve_precision(self.training, self.model.backbone.shape.hidden_size, device),
            device,
        )
        self.number = self._resume(segment.directory / "state", fingerprint(stored))
        self._source = batch_source(
            self.store, self.training, segment.seed, self.inputs, self.model.alignment
        )

    def _resume(self, directory: Path, fingerprint: str) -> int:
        states, until = StateDirectory(directory, fingerprint), self.segment.until
        if until and until not in (steps := states.steps()):
            known = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{directory}: has no state of step {until} (known: {known})")
        progress = TrainingProgress(
            self.model, self.ema, self.optimizer, self.mixed_precision, self.accelerator
        )
        if until and (resumed := progress.resume(states, until)) != until:
            raise UserError(
                f"{directory}: the state of step {until} cannot be used, the newest that can is"
                f" {resumed}"
            )
        return until

    def batches(self, number: int | None = None) -> list[Batch]:
        """The micro-batches of an optimizer step, counted from 0; of the next one by default."""
        step = self.number if number is None else number
        slices = local_batch_slices(self.training.batch_size, 1, self.training.accumulate, 0)
        return [self._source.draw(step, positions, self.device) for positions in slices]

    def step(self) -> StepLosses:
        """One step of the optimizer, and of the average; returns the losses before it."""
        self.model.train()
        with tf32_allowed(self.training.tf32):
            return self._step()

    def _step(self) -> StepLosses:
        losses = accumulate(self.model, self.batches(), self.mixed_precision, self.accelerator)
        self.mixed_precision.scaler.unscale_(self.optimizer)
        apply_gradient(
            self.model,
            self._parameters,
            self.optimizer,
            self.mixed_precision,
            self.number,
            self.training,
        )
        self._update_average()
        self.number += 1
        return losses
