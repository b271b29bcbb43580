"""Weight files: a checkpoint's backbone, raw or averaged, and the frozen teacher cut from one."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from selftrans.models.sit import SiT, SiTShape, SiTTrunk
from selftrans.runtime.tensors import load_tensors

M = TypeVar("M", bound=SiTTrunk)


def load_backbone(path: Path, device: torch.device) -> tuple[SiT, dict[str, Any]]:
    """The backbone of a weight file in eval mode without gradient, and the file's metadata.

    Raises:
        UserError: the file is absent, damaged or holds something else.
    """
    tensors, metadata = load_tensors(path, "weights")
    return _frozen(SiT(SiTShape(**metadata["shape"])), tensors, device), metadata


def load_teacher(path: Path, device: torch.device) -> tuple[SiTTrunk, dict[str, Any]]:
    """The frozen teacher of a file that ``freeze_teacher`` wrote, and the file's metadata.

    Raises:
        UserError: the file is absent, damaged or holds something else.
    """
    tensors, metadata = load_tensors(path, "teacher")
    return _frozen(SiTTrunk(SiTShape(**metadata["shape"])), tensors, device), metadata


def _frozen(model: M, tensors: dict[str, Tensor], device: torch.device) -> M:
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval().to(device)
