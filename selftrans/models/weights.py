"""Weight files: a checkpoint's backbone, as we write it or exported, and the frozen teacher."""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from selftrans.models.metadata import TeacherMetadata, WeightsMetadata
from selftrans.models.sit import SiT, SiTTrunk
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json
from selftrans.runtime.tensors import digest_of, read_safetensors

M = TypeVar("M", bound=SiTTrunk)
CPU = torch.device("cpu")


def load_backbone(path: Path, device: torch.device) -> tuple[SiT, WeightsMetadata]:
    """The backbone of a weight file in eval mode without gradient, and the file's metadata.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    tensors, metadata = WeightsMetadata.load(path)
    return _frozen(SiT(metadata.shape), tensors, device), metadata


def load_exported(directory: Path | str, device: torch.device = CPU) -> tuple[SiT, WeightsMetadata]:
    """The backbone of a directory that ``python -m selftrans.convert export`` wrote.

    Also its ``config.json``.

    Raises:
        UserError: one of its files is absent, damaged or of another kind.
    """
    directory = Path(directory)
    config_file, weights_file = directory / "config.json", directory / "model.safetensors"
    metadata = WeightsMetadata.parse(read_json(config_file), config_file)
    tensors = read_safetensors(weights_file)
    if (digest := digest_of(tensors)) != metadata.digest:
        raise UserError(
            f"{weights_file}: has digest {digest[:12]}, {config_file.name} says"
            f" {metadata.digest[:12]}"
        )
    return _frozen(SiT(metadata.shape), tensors, device), metadata


def load_teacher(path: Path, device: torch.device) -> tuple[SiTTrunk, TeacherMetadata]:
    """The frozen teacher of a file that ``freeze_teacher`` wrote, and the file's metadata.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    tensors, metadata = TeacherMetadata.load(path)
    return _frozen(SiTTrunk(metadata.shape), tensors, device), metadata


def _frozen(model: M, tensors: dict[str, Tensor], device: torch.device) -> M:
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval().to(device)
