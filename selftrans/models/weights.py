"""Weight files: a checkpoint's backbone, as we write it or exported, and the frozen teacher."""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from selftrans.models.backbone import Backbone, Trunk
from selftrans.models.build import backbone_of, trunk_of
from selftrans.models.metadata import TeacherMetadata, WeightsMetadata, load_checkpoint
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json
from selftrans.runtime.tensors import digest_of, read_safetensors

M = TypeVar("M", bound=Trunk)
CPU = torch.device("cpu")


def load_backbone(path: Path, device: torch.device) -> tuple[Backbone, WeightsMetadata]:
    """The backbone of a weight file in eval mode without gradient, and the file's metadata.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    tensors, metadata = load_checkpoint(path)
    return _frozen(backbone_of(metadata), tensors, device), metadata


def load_exported(
    directory: Path | str, device: torch.device = CPU
) -> tuple[Backbone, WeightsMetadata]:
    """The backbone of a directory that ``selftrans export`` wrote.

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
    return _frozen(backbone_of(metadata), tensors, device), metadata


def load_teacher(path: Path, device: torch.device) -> tuple[Trunk, TeacherMetadata]:
    """The frozen teacher of a file that ``freeze_teacher`` wrote, and the file's metadata.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    tensors, metadata = TeacherMetadata.load(path)
    own = metadata.own_backbone is not None
    trunk = backbone_of(metadata) if own else trunk_of(metadata.shape)
    return _frozen(trunk, tensors, device), metadata


def _frozen(model: M, tensors: dict[str, Tensor], device: torch.device) -> M:
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval().to(device)
