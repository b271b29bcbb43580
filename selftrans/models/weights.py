"""Weight files: a checkpoint's backbone, raw or averaged, as we write it or exported, and the frozen teacher cut from one."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from selftrans.models.sit import SiT, SiTShape, SiTTrunk
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json
from selftrans.runtime.tensors import digest_of, load_tensors, read_safetensors

M = TypeVar("M", bound=SiTTrunk)
CPU = torch.device("cpu")


def load_backbone(path: Path, device: torch.device) -> tuple[SiT, dict[str, Any]]:
    """The backbone of a weight file in eval mode without gradient, and the file's metadata.

    Raises:
        UserError: the file is absent, damaged or holds something else.
    """
    tensors, metadata = load_tensors(path, "weights")
    return _frozen(SiT(SiTShape(**metadata["shape"])), tensors, device), metadata


def load_exported(directory: Path | str, device: torch.device = CPU) -> tuple[SiT, dict[str, Any]]:
    """The backbone of a directory that ``python -m selftrans.convert export --to safetensors`` wrote, and its config.

    Raises:
        UserError: a file of it is absent, damaged or of something else.
    """
    config_file, weights_file = (
        Path(directory) / "config.json",
        Path(directory) / "model.safetensors",
    )
    config = read_json(config_file)
    if not (isinstance(config, dict) and {"shape", "digest"} <= config.keys()):
        raise UserError(f"{config_file}: was not written by selftrans")
    tensors = read_safetensors(weights_file)
    if (found := digest_of(tensors)) != config["digest"]:
        raise UserError(
            f"{weights_file}: has digest {found[:12]}, {config_file.name} says {config['digest'][:12]}"
        )
    return _frozen(SiT(SiTShape(**config["shape"])), tensors, device), config


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
