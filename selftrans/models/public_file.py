"""Public files of weights, as they were written.

Nothing in them is executed.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selftrans.config import Weights
from selftrans.runtime.errors import UserError
from selftrans.runtime.tensors import read_safetensors

WRAPPERS = ("module", "_orig_mod")
"""Parts of names that DistributedDataParallel and torch.compile put in."""


@dataclass(frozen=True, kw_only=True)
class PublicCheckpoint:
    """A public file as it was written."""

    path: Path
    state_dicts: Mapping[Weights, Mapping[str, Tensor]]
    """Averaged and raw; of a bare state dict only one, which is taken for the average."""
    step: int | None = None
    """The training's step, where the file says it."""

    def tensors(self, weights: Weights) -> dict[str, Tensor]:
        """Averaged or raw weights, under names without the parts that wrappers put in.

        Blocks are numbered through: REPA's first files (its generation script's ``--legacy``) call
        those behind the aligned block ``decoder_blocks``, from 0 again.

        Raises:
            UserError: the file does not have them, or two of them have the same name.
        """
        if weights not in self.state_dicts:
            raise UserError(
                f"{self.path}: has no {weights} weights (it has: {', '.join(self.state_dicts)})"
            )
        named = self.state_dicts[weights]
        plain = {
            ".".join(part for part in name.split(".") if part not in WRAPPERS): named[name]
            for name in named
        }
        first = count_blocks(plain)
        plain = {
            re.sub(r"^decoder_blocks\.(\d+)", lambda n: f"blocks.{first + int(n[1])}", name): tensor
            for name, tensor in plain.items()
        }
        if len(plain) < len(named):
            raise UserError(
                f"{self.path}: several of its tensors have the same name without"
                f" {' and '.join(WRAPPERS)}"
            )
        return plain


def read_checkpoint(path: Path) -> PublicCheckpoint:
    """Read a public file: a bare state dict, or one of a training with ``model`` and ``ema``.

    Nothing in it is executed.

    Raises:
        UserError: the file is absent, damaged or of another kind, or holds more than tensors and
            plain data.
    """
    if path.suffix not in (".pt", ".pth", ".bin", ".safetensors"):
        raise UserError(
            f"{path}: {path.suffix!r} is not a kind of checkpoint"
            " (allowed: .pt, .pth, .bin, .safetensors)"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    content: Any = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if _is_state_dict(content):
        return PublicCheckpoint(path=path, state_dicts={"ema": content})
    parts = content if isinstance(content, dict) else {}
    keys: dict[Weights, str] = {"ema": "ema", "raw": "model"}
    state_dicts = {
        weights: parts[key] for weights, key in keys.items() if _is_state_dict(parts.get(key))
    }
    if not state_dicts:
        content_names = ", ".join(map(str, list(parts)[:8])) or type(content).__name__
        raise UserError(
            f"{path}: holds {content_names}"
            " (allowed: a state dict, or a dict with one under 'ema' or 'model')"
        )
    step = parts.get("steps")
    return PublicCheckpoint(
        path=path, state_dicts=state_dicts, step=step if isinstance(step, int) else None
    )


def _read_pickle(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors, plain data and namespaces of training arguments."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Zip archives can be mapped: optimizer states are then never read.
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path}: wants to use {refused[1]}, which is refused"
                " (allowed: tensors, plain data, argparse.Namespace)"
            ) from None
        raise UserError(f"{path}: damaged or not a PyTorch file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception:  # damaged bytes make the reader fail in any way
        raise UserError(f"{path}: damaged or not a PyTorch file") from None


def _is_state_dict(value: Any) -> bool:
    named = isinstance(value, dict) and bool(value)
    return named and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def count_blocks(names: Iterable[str], blocks: str = "blocks") -> int:
    """Number of blocks in a list of this name, by their tensors."""
    return len({name.split(".")[1] for name in names if name.startswith(f"{blocks}.")})
