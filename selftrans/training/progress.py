"""Everything that a stopped training needs to resume, and the losses that it logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG
from selftrans.training.held_out import HELD_OUT_COLUMNS
from selftrans.training.model import StepLosses
from selftrans.training.precision import MixedPrecision
from selftrans.training.state import StateDirectory

HISTORY_COLUMNS = (
    "step",
    "loss",
    "denoising",
    "alignment",
    "gradient_norm",
    "cosine",
    "denoising_gradient",
    "alignment_gradient",
)
"""Means over a logging interval: L, its two parts as they are added up, the norm of its gradient
before clipping, the cosine of prediction and guiding feature over the samples that count; and, at
the interval's last step, the norms of the two parts' gradients with respect to the backbone."""


class IntervalSums(NamedTuple):
    """Sums over the steps of a logging interval: scalars of one process, or (P,) of P processes."""

    steps: Tensor
    loss: Tensor
    denoising: Tensor
    alignment: Tensor
    gradient_norm: Tensor
    steps_with_norm: Tensor
    """Steps whose gradient has a norm: those that fp16 did not skip."""
    cosine_sum: Tensor
    cosine_count: Tensor

    @classmethod
    def zeros(cls, device: torch.device) -> IntervalSums:
        """No step yet."""
        return cls(*torch.zeros(len(cls._fields), device=device))

    @classmethod
    def of_step(cls, losses: StepLosses, norm: Tensor | None) -> IntervalSums:
        """The sums of a single step; ``norm`` is None where fp16 skipped it."""
        one = torch.ones_like(losses.loss)
        return cls(
            steps=one,
            loss=losses.loss,
            denoising=losses.denoising,
            alignment=losses.alignment,
            gradient_norm=torch.zeros_like(one) if norm is None else norm,
            steps_with_norm=torch.zeros_like(one) if norm is None else one,
            cosine_sum=losses.cosine_sum,
            cosine_count=losses.cosine_count,
        )

    def plus(self, other: IntervalSums) -> IntervalSums:
        """The sums over the steps of both."""
        return IntervalSums(*(torch.stack(self) + torch.stack(other)))

    def is_finite(self) -> Tensor:
        """Whether all of them are finite, as a tensor on the device."""
        return torch.isfinite(torch.stack(self)).all()

    def gathered(self, accelerator: Accelerator) -> IntervalSums:
        """Those of every process, (P,) each."""
        columns = accelerator.gather(torch.stack(self)[None]).unbind(1)
        return IntervalSums(*(torch.cat([column]) for column in columns))

    def mean(self) -> IntervalSums:
        """Of the sums of P processes, the means over the processes."""
        return IntervalSums(*torch.stack(self, dim=1).mean(dim=0))


class TrainingProgress:
    """Everything that a stopped training needs to resume: weights, average, moments, losses.

    Args:
        model: backbone and heads, not wrapped.
        ema: the averaged backbone.
        optimizer: AdamW.
        mixed_precision: its loss scale is saved, too.
        accelerator: the processes, each of which has its own sums of losses.
    """

    def __init__(
        self,
        model: nn.Module,
        ema: nn.Module,
        optimizer: torch.optim.AdamW,
        mixed_precision: MixedPrecision,
        accelerator: Accelerator,
    ) -> None:
        self.model, self.ema, self.optimizer = model, ema, optimizer
        self.scaler, self.accelerator = mixed_precision.scaler, accelerator
        device = next(model.parameters()).device
        self.history: list[list[float]] = []
        self.held_out: list[list[float]] = []
        self.sums = IntervalSums.zeros(device)
        self.all_sums = IntervalSums(*(value[None] for value in self.sums))  # of every process
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.seconds = 0.0
        self._clock = training_clock(device)
        self._since = self._clock()

    def count(self, step: int, losses: StepLosses, norm: Tensor | None) -> None:
        """Add one step's losses and gradient norm, without waiting for the device.

        The norm is None where fp16 skipped the step: an overflow of the scaled gradient is part of
        finding the scale.
        """
        added = IntervalSums.of_step(losses, norm)
        self.sums = self.sums.plus(added)
        bad = ~added.is_finite() & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)

    def share(self) -> None:
        """Let all processes know the sums of each, and whether a loss was not finite in any."""
        self.all_sums = self.sums.gathered(self.accelerator)
        self.first_bad_step = self.accelerator.gather(self.first_bad_step.reshape(1)).max()

    def close_interval(self, step: int, gradients: tuple[float, float]) -> dict[str, float]:
        """The means since the last call, over all processes, as one row of the history.

        To be called after ``share``. ``gradients`` are the norms of the gradients of L_denoise and
        L_alignment at this step.
        """
        means = torch.stack(self.all_sums.mean()).tolist()
        mean: dict[str, float] = dict(zip(IntervalSums._fields, means, strict=True))
        self.sums = IntervalSums.zeros(self.first_bad_step.device)
        row = {
            "step": float(step),
            "loss": mean["loss"] / mean["steps"],
            "denoising": mean["denoising"] / mean["steps"],
            "alignment": mean["alignment"] / mean["steps"],
            "gradient_norm": mean["gradient_norm"] / max(mean["steps_with_norm"], 1),
            "cosine": mean["cosine_sum"] / mean["cosine_count"] if mean["cosine_count"] else nan,
            "denoising_gradient": gradients[0],
            "alignment_gradient": gradients[1],
        }
        self.history.append([row[column] for column in HISTORY_COLUMNS])
        return row

    def add_held_out(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """Add the loss on held-out images at a step, and return it."""
        self.held_out.append([row[column] for column in HELD_OUT_COLUMNS])
        return row

    def tables(self) -> dict[str, str]:
        """What was logged so far, as CSV: the history, and the held-out loss where there is one."""
        tables = {"history": _as_csv(HISTORY_COLUMNS, self.history)}
        if self.held_out:
            tables["held_out"] = _as_csv(HELD_OUT_COLUMNS, self.held_out)
        return tables

    def require_finite(self, directory: Path) -> None:
        """Raise where a loss or a gradient was not finite.

        Raises:
            UserError: the step is named; what is on disk is from before it.
        """
        if (bad := int(self.first_bad_step)) >= 0:
            raise UserError(
                f"{directory}: loss or gradient is not finite at step {bad};"
                " the last good state is kept."
                " Lower training.learning_rate, or train with precision fp32"
            )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of a state file, and its metadata but for step and fingerprint."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64).reshape(
            -1, len(HISTORY_COLUMNS)
        )
        if self.held_out:
            tensors["held_out"] = torch.tensor(self.held_out, dtype=torch.float64)
        tensors |= {f"sums.{name}": value for name, value in self.all_sums._asdict().items()}
        return tensors, {"seconds": self.seconds_spent, "scaler": self.scaler.state_dict()}

    def resume(self, states: StateDirectory, until: int) -> int:
        """Load the newest sound state not past ``until`` and return its step; 0 without one.

        The first process chooses, and the others load the same one: on a network file system they
        may see other files.
        """
        newest = states.load_newest(until) if self.accelerator.is_main_process else None
        chosen = [newest[0] if newest else 0]
        broadcast_object_list(chosen)
        if (step := chosen[0]) == 0:
            return 0
        _, tensors, metadata = newest or states.load(step)
        self.model.load_state_dict(_below("model.", tensors))
        self.ema.load_state_dict(_below("ema.", tensors))
        for name, parameter in self.model.named_parameters():
            moments = _below(f"optimizer.{name}.", tensors)
            if moments:
                on_device = {key: value.to(parameter.device) for key, value in moments.items()}
                self.optimizer.state[parameter].update(on_device)
        self.history = tensors["history"].tolist()
        self.held_out = tensors["held_out"].tolist() if "held_out" in tensors else []
        sums = IntervalSums(**_below("sums.", tensors))
        if len(sums.steps) == self.accelerator.num_processes:
            resumed = IntervalSums(*(value[self.accelerator.process_index] for value in sums))
        else:  # another number of processes shares their mean
            resumed = sums.mean()
        self.sums = IntervalSums(*(value.to(self.first_bad_step.device) for value in resumed))
        self.seconds = metadata.seconds
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(metadata.scaler)
        LOG.info("resuming from step %d", step)
        return step

    @property
    def seconds_spent(self) -> float:
        """Time of this training by ``training_clock``, over all its attempts."""
        return self.seconds + self._clock() - self._since


def training_clock(device: torch.device) -> Callable[[], float]:
    """What a training's seconds are counted by.

    The wall's time; on one thread of a CPU that thread's, which jobs beside it hardly lengthen.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.monotonic


def _as_csv(columns: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    lines = [f"{int(step)}," + ",".join(map(repr, values)) for step, *values in rows]
    return "\n".join([",".join(columns), *lines]) + "\n"


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
