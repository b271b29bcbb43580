"""The recipe of a training, and checkpoints that others trained."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selftrans.config.base import (
    ConfigModel,
    InterpolantName,
    Line,
    PositiveFloat,
    PositiveInt,
    Precision,
    UnitFloat,
)
from selftrans.runtime.errors import ConfigError

Convention = Literal["noise-at-1", "data-at-1"]
"""Which end of time is which; the velocity is always dx/dt. ``noise-at-1``: ours, REPA's, SRA's.
``data-at-1``: SiT's."""

HELD_OUT_BINS = 10
"""Bins of t that the loss on held-out images is logged in."""


class LearningRateDecayConfig(ConfigModel):
    """A fall of the learning rate between two steps; before it is constant, behind it, too."""

    shape: Literal["linear", "cosine"] = "cosine"
    """Along a line, or half a cosine."""
    start: Annotated[int, Field(ge=0)] = 0
    """Step at which it begins."""
    end: PositiveInt
    """Step at which it is over."""
    final: UnitFloat = 0.0
    """What is left of the learning rate at the end, as a share of it."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start: {self.start} is not before end {self.end}")
        return self


class ProfileConfig(ConfigModel):
    """A trace of one step by torch's profiler."""

    step: PositiveInt
    """Optimizer step that is traced, counted from 1, by the attempt that makes it."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(ConfigModel):
    """One recipe for every run of an experiment; a run may override parts of it."""

    checkpoints: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Optimizer steps that leave weights behind: teachers and evaluations choose among them."""
    batch_size: PositiveInt = 256
    """Images per optimizer step, over all processes."""
    learning_rate: PositiveFloat = 1e-4
    """Learning rate of AdamW: constant, unless there is a warm-up or a decay."""
    warmup: Annotated[int, Field(ge=0, le=10**12)] = 0
    """Steps over which the learning rate rises linearly to its value: that of step s, counted from
    1, is s / warmup of it."""
    decay: LearningRateDecayConfig | None = None
    """Fall of the learning rate; none, if it is not given."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's averaging factors."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the gradient; none if null."""
    ema_decay: UnitFloat = 0.9999
    """Decay per step of the moving average of the weights (EMA)."""
    label_dropout: UnitFloat = 0.1
    """Probability that an image's class or caption is replaced by the null condition."""
    interpolant: InterpolantName = "linear"
    """Interpolant between data (t=0) and noise (t=1)."""
    time_sampling: Literal["uniform", "log-normal"] = "uniform"
    """Distribution of t."""
    precision: Literal["auto"] | Precision = "auto"
    """Arithmetic of forward and backward. `auto` is bf16 where the device has it and the hidden
    size gains by it, else fp32."""
    tf32: bool = False
    """Let a GPU round the factors of fp32 matrix products and convolutions to TF32."""
    accumulate: PositiveInt = 1
    """Micro-batches per optimizer step and process."""
    activation_checkpointing: bool = False
    """Recompute activations block by block in the backward pass, to save memory."""
    compile: bool = False
    """Compile the backbone with torch.compile."""
    deterministic: bool = True
    """On GPUs, sum in a fixed order, so that a resumed training has the same bits. Without,
    attention may be faster."""
    log_every: PositiveInt = 100
    """Optimizer steps that one logged loss is the mean of."""
    save_minutes: PositiveFloat = 10.0
    """Minutes between two saves of the state in progress."""
    logger: Literal["tensorboard", "wandb"] = "tensorboard"
    """Where the scalars of a training go: TensorBoard event files, or Weights & Biases as well."""
    profile: ProfileConfig | None = None
    """Leave a trace of one step in the run's `profile/`: what CPU and GPU do when. It changes no
    number."""
    held_out: Annotated[int, Field(ge=0)] = 0
    """Images that are held out of the training, a share of each class; the velocity loss on them
    is logged by t. Autoencoder and encoders have seen them."""
    held_out_every: PositiveInt = 1000
    """Optimizer steps between two computations of that loss, with the averaged weights."""

    @model_validator(mode="after")
    def _steps_and_batches_add_up(self) -> Self:
        if list(self.checkpoints) != sorted(set(self.checkpoints)):
            raise ValueError(
                f"checkpoints: {list(self.checkpoints)} must ascend without duplicates"
            )
        if self.profile and self.profile.step > self.checkpoints[-1]:
            raise ValueError(
                f"profile.step: {self.profile.step} is beyond the last checkpoint,"
                f" {self.checkpoints[-1]}"
            )
        if self.log_every > self.checkpoints[0]:
            raise ValueError(
                f"log_every: {self.log_every} is beyond the first checkpoint, {self.checkpoints[0]}"
            )
        if 0 < self.held_out < HELD_OUT_BINS:
            raise ValueError(
                f"held_out: {self.held_out} is less than one for each bin of t"
                f" (allowed: 0, or at least {HELD_OUT_BINS})"
            )
        if self.held_out and self.held_out_every > self.checkpoints[-1]:
            raise ValueError(
                f"held_out_every: {self.held_out_every} is beyond the last checkpoint,"
                f" {self.checkpoints[-1]}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate: {self.accumulate} does not divide batch_size {self.batch_size}"
            )
        return self

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of optimizer step ``step``, counted from 0."""
        factor = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.decay is not None:
            length = self.decay.end - self.decay.start
            done = min(max((step - self.decay.start) / length, 0.0), 1.0)
            fallen = done if self.decay.shape == "linear" else (1 - math.cos(math.pi * done)) / 2
            factor *= 1 - (1 - self.decay.final) * fallen
        return self.learning_rate * factor

    def split_problem(self, images: int | None) -> str | None:
        """What is wrong with holding images out of so many; None of an unknown number."""
        if not self.held_out or images is None:
            return None
        if (left := max(images - self.held_out, 0)) >= self.batch_size:
            return None
        return (
            f"{self.held_out} of {images} images leave {left}, fewer than a batch of"
            f" {self.batch_size}"
        )

    def check_processes(self, processes: int, where: str) -> None:
        """Refuse a number of processes that the global batch cannot be shared among.

        Raises:
            ConfigError: naming ``where`` the recipe is set.
        """
        if self.batch_size % (processes * self.accumulate):
            raise ConfigError(
                f"{where}: training.batch_size: {self.batch_size} is not a multiple of {processes}"
                f" processes times {self.accumulate} micro-batches"
            )


class ImportedConfig(ConfigModel):
    """A checkpoint that others trained, to be sampled, evaluated or followed as a teacher."""

    file: Line
    """`.pt` or `.safetensors` with the parameter names of SiT, DiT and REPA; nothing in it is
    executed. A published file of one set of weights counts as `ema`, also where it is a teacher."""
    convention: Convention
    """Where the noise is: at t = 1 (REPA, SRA, the authors of Self-Transcendence), or the data,
    with the velocity turned (SiT, LayerSync)."""
    step: PositiveInt
    """Optimizer steps it was trained for, by which it is called."""
    scale: PositiveFloat = 0.18215
    """Factor of the latents that it was trained on."""
    shift: float = 0.0
    """What was subtracted from them before."""
    ignore: tuple[str, ...] = ()
    """Beginnings of the names of further training-only heads in it."""
    empty_context: Line | None = None
    """For an MMDiT, whose public files lack its null condition: `.npy` with the features of the
    empty caption, which the ancestors' preparation writes as `empty_context.npy`."""
