"""Everything that a stopped training needs to go on, and the losses that it logs."""

import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG
from selftrans.training.precision import Arithmetic
from selftrans.training.state import StateDirectory

HISTORY_COLUMNS = ("step", "loss", "denoising", "alignment", "gradient_norm")


class TrainingProgress:
    """Everything that a stopped training needs to go on: weights, average, moments, logged losses.

    Args:
        model: backbone and heads, not wrapped.
        ema: the averaged backbone.
        optimizer: AdamW.
        arithmetic: its loss scale goes on, too.
    """

    def __init__(self, model: nn.Module, ema: nn.Module, optimizer: torch.optim.AdamW, arithmetic: Arithmetic) -> None:
        self.model, self.ema, self.optimizer, self.scaler = model, ema, optimizer, arithmetic.scaler
        device = next(model.parameters()).device
        self.history: list[list[float]] = []
        self.sums = torch.zeros(6, device=device)  # steps, three losses, gradient norm, steps that have one
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.seconds = 0.0
        self._since = time.monotonic()

    def count(self, step: int, losses: Tensor, norm: Tensor | None) -> None:
        """Add one step's losses (total, denoising, alignment) and gradient norm, without waiting for the device.

        The norm is None where fp16 left the step out: an overflow of the scaled gradient is part of finding the scale.
        """
        one = losses.new_ones(1)
        with_norm = torch.cat([norm.reshape(1), one]) if norm is not None else losses.new_zeros(2)
        numbers = torch.cat([one, losses, with_norm])
        self.sums += numbers
        bad = ~torch.isfinite(numbers).all() & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)

    def average_over(self, accelerator: Accelerator) -> None:
        """Replace this process's sums by the mean over the processes; a loss that is not finite in one is so in all."""
        if accelerator.num_processes > 1:
            self.sums = accelerator.reduce(self.sums, "mean")
            self.first_bad_step = accelerator.gather(self.first_bad_step.reshape(1)).max()

    def close_interval(self, step: int) -> dict[str, float]:
        """The means since the last call, as one row of the history."""
        steps, *losses, norm, norms = self.sums.tolist()
        self.sums.zero_()
        self.history.append([float(step), *(value / steps for value in losses), norm / max(norms, 1)])
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
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64).reshape(-1, len(HISTORY_COLUMNS))
        tensors["sums"] = self.sums
        return tensors, {"seconds": self.seconds_spent, "scaler": self.scaler.state_dict()}

    def resume(self, states: StateDirectory, until: int) -> int:
        """Load the newest sound state not past ``until`` and return its step; 0 without one."""
        found = states.load_newest(until)
        if found is None:
            return 0
        step, tensors, metadata = found
        self.model.load_state_dict(_below("model.", tensors))
        self.ema.load_state_dict(_below("ema.", tensors))
        for name, parameter in self.model.named_parameters():
            moments = _below(f"optimizer.{name}.", tensors)
            if moments:
                on_device = {key: value.to(parameter.device) for key, value in moments.items()}
                self.optimizer.state[parameter].update(on_device)
        self.history = tensors["history"].tolist()
        self.sums = tensors["sums"].to(self.sums.device)
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
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
