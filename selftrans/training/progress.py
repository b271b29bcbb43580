"""Everything that a stopped training needs to go on, and the losses that it logs."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG
from selftrans.training.precision import MixedPrecision
from selftrans.training.state import StateDirectory

HISTORY_COLUMNS = (
    "step", "loss", "denoising", "alignment", "gradient_norm", "cosine", "denoising_gradient", "alignment_gradient",
)  # fmt: skip
"""Means over a logging interval: L, its two parts as they are added up, the norm of its gradient before clipping, the cosine
of prediction and guiding feature over the samples that count; and, at the interval's last step, the norms of the two parts'
gradients with respect to the backbone."""


class TrainingProgress:
    """Everything that a stopped training needs to go on: weights, average, moments, logged losses.

    Args:
        model: backbone and heads, not wrapped.
        ema: the averaged backbone.
        optimizer: AdamW.
        arithmetic: its loss scale goes on, too.
        accelerator: the processes, each of which has losses of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        ema: nn.Module,
        optimizer: torch.optim.AdamW,
        mixed_precision: MixedPrecision,
        accelerator: Accelerator,
    ) -> None:
        self.model, self.ema, self.optimizer, self.scaler = (
            model,
            ema,
            optimizer,
            mixed_precision.scaler,
        )
        device = next(model.parameters()).device
        self.accelerator = accelerator
        self.history: list[list[float]] = []
        # Steps, three losses, gradient norm, steps that have one, cosines, samples that have one.
        self.sums = torch.zeros(8, device=device)
        self.all_sums = self.sums[None]  # of every process
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.seconds = 0.0
        self._since = time.monotonic()

    def count(self, step: int, losses: Tensor, norm: Tensor | None, cosines: Tensor) -> None:
        """Add one step's losses (total, denoising, alignment), gradient norm and cosines, without waiting for the device.

        The norm is None where fp16 left the step out: an overflow of the scaled gradient is part of finding the scale.
        ``cosines`` are their sum and their number.
        """
        one = losses.new_ones(1)
        with_norm = torch.cat([norm.reshape(1), one]) if norm is not None else losses.new_zeros(2)
        numbers = torch.cat([one, losses, with_norm, cosines])
        self.sums += numbers
        bad = ~torch.isfinite(numbers).all() & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)

    def share(self) -> None:
        """Tell all processes the sums of each, and whether a loss was not finite in any."""
        self.all_sums = self.accelerator.gather(self.sums[None])
        self.first_bad_step = self.accelerator.gather(self.first_bad_step.reshape(1)).max()

    def close_interval(self, step: int, parts: tuple[float, float]) -> dict[str, float]:
        """The means since the last call, over all processes, as one row of the history; to be called after ``share``.

        ``parts`` are the gradient norms of the two parts of the loss at this step.
        """
        steps, *losses, norm, norms, cosine, cosines = self.all_sums.mean(dim=0).tolist()
        self.sums.zero_()
        mean_cosine = cosine / cosines if cosines else math.nan
        self.history.append(
            [
                float(step),
                *(value / steps for value in losses),
                norm / max(norms, 1),
                mean_cosine,
                *parts,
            ]
        )
        return dict(zip(HISTORY_COLUMNS, self.history[-1], strict=True))

    def history_as_csv(self) -> str:
        """The logged losses so far."""
        lines = [f"{int(step)}," + ",".join(map(repr, values)) for step, *values in self.history]
        return "\n".join([",".join(HISTORY_COLUMNS), *lines]) + "\n"

    def require_finite(self, directory: Path) -> None:
        """Raise where a loss or a gradient was not finite.

        Raises:
            UserError: the step is named; what is on disk is from before it.
        """
        if (bad := int(self.first_bad_step)) >= 0:
            raise UserError(
                f"{directory}: loss or gradient is not finite at step {bad}; the last good state is kept."
                " Lower training.learning_rate, or train with precision fp32"
            )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a state file."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64).reshape(
            -1, len(HISTORY_COLUMNS)
        )
        tensors["sums"] = self.all_sums
        return tensors, {"seconds": self.seconds_spent, "scaler": self.scaler.state_dict()}

    def resume(self, states: StateDirectory, until: int) -> int:
        """Load the newest sound state not past ``until`` and return its step; 0 without one.

        The first process chooses, and the others load that one: they may see other files on a network file system.
        """
        main = self.accelerator.is_main_process
        found = states.load_newest(until) if main else None
        chosen = [found[0] if found else 0]
        broadcast_object_list(chosen)
        if (step := chosen[0]) == 0:
            return 0
        _, tensors, metadata = found or states.load(step)
        self.model.load_state_dict(_below("model.", tensors))
        self.ema.load_state_dict(_below("ema.", tensors))
        for name, parameter in self.model.named_parameters():
            moments = _below(f"optimizer.{name}.", tensors)
            if moments:
                on_device = {key: value.to(parameter.device) for key, value in moments.items()}
                self.optimizer.state[parameter].update(on_device)
        self.history = tensors["history"].tolist()
        sums = tensors[
            "sums"
        ]  # a row for each process; another number of processes shares their mean
        same = len(sums) == self.accelerator.num_processes
        self.sums = (sums[self.accelerator.process_index] if same else sums.mean(dim=0)).to(
            self.sums.device
        )
        self.seconds = metadata["seconds"]
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(metadata["scaler"])
        LOG.info("going on from step %d", step)
        return step

    @property
    def seconds_spent(self) -> float:
        """Wall time of this training, over all its attempts."""
        return self.seconds + time.monotonic() - self._since


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
