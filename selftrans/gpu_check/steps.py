"""A whole step of a training, as ``train`` makes it, to be timed."""

from __future__ import annotations

import torch

from selftrans.config import AlignmentConfig, BackboneConfig, Precision, TrainingConfig
from selftrans.gpu_check.cases import random_batch, training_model
from selftrans.gpu_check.numerics import Arithmetic
from selftrans.gpu_check.workbench import Workbench
from selftrans.runtime.devices import tf32_allowed
from selftrans.training.ema import MovingAverage
from selftrans.training.model import (
    StepLosses,
    accumulate,
    apply_gradient,
    build_optimizer,
    prepare_blocks,
)
from selftrans.training.precision import MixedPrecision, make_accelerator


class TrainingStep:
    """Forward, backward, clipping, AdamW and EMA, on a batch that lies on the device.

    Args:
        bench: device and sizes.
        model, method: what is trained, from fresh weights.
        arithmetic: of the step.
        size: images in the batch.
        compiled: whether blocks are compiled.
    """

    def __init__(
        self,
        bench: Workbench,
        model: BackboneConfig,
        method: AlignmentConfig | None,
        arithmetic: Arithmetic,
        size: int,
        *,
        compiled: bool = False,
    ) -> None:
        self._bench, self._settings = bench, model
        self.arithmetic = arithmetic
        recipe = TrainingConfig(checkpoints=(1,), log_every=1, compile=compiled)
        self.model = training_model(model, method, bench.sizes, bench.device, fresh=True).train()
        self._ema = MovingAverage(self.model.backbone, recipe.ema_decay)
        self.model.alignment.set_ema_model(self._ema.average)
        prepare_blocks(self.model.backbone, recipe, bench.sizes.compile_backend)
        self._parameters = [one for one in self.model.parameters() if one.requires_grad]
        self._optimizer = build_optimizer(self._parameters, recipe)
        self._accelerator = make_accelerator(on_gpu=bench.on_gpu, deterministic=False)
        self._recipe, self._step = recipe, 0
        self.resize(size)

    @property
    def arithmetic(self) -> Arithmetic:
        """Of the step."""
        return self._arithmetic

    @arithmetic.setter
    def arithmetic(self, arithmetic: Arithmetic) -> None:
        precision: Precision = "fp32" if arithmetic == "tf32" else arithmetic
        self._arithmetic = arithmetic
        self._mixed = MixedPrecision(precision, self._bench.device)

    def resize(self, size: int, in_range: int | None = None, seed: int = 0) -> None:
        """Train on another batch from now on."""
        bench = self._bench
        sizes, device = bench.sizes, bench.device
        self._batches = [random_batch(sizes, self._settings, device, size, in_range, seed)]

    def __call__(self) -> StepLosses:
        """One step; nothing waits for the device."""
        with tf32_allowed(self._arithmetic == "tf32"):
            return self._step_once()

    def _step_once(self) -> StepLosses:
        losses = accumulate(self.model, self._batches, self._mixed, self._accelerator)
        self._mixed.scaler.unscale_(self._optimizer)
        apply_gradient(
            self.model,
            self._parameters,
            self._optimizer,
            self._mixed,
            self._step,
            self._recipe,
        )
        self._ema.update()
        self._step += 1
        return losses

    def clear(self) -> None:
        """Drop gradients, for instance those of a step that memory did not suffice for."""
        self._optimizer.zero_grad(set_to_none=True)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._bench.device
