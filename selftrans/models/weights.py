"""Weight files: a checkpoint's backbone, as we write it or exported, and the frozen teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from selftrans.config import Backbone, BackboneConfig
from selftrans.models.metadata import TeacherMetadata, WeightsMetadata, load_checkpoint
from selftrans.models.sit import SiT, SiTTrunk, build_backbone
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json
from selftrans.runtime.tensors import digest_of, read_safetensors

M = TypeVar("M", bound=SiTTrunk)
_BACKBONE: TypeAdapter[BackboneConfig] = TypeAdapter(Backbone)
CPU = torch.device("cpu")


def load_backbone(path: Path, device: torch.device) -> tuple[SiT, WeightsMetadata]:
    """The backbone of a weight file in eval mode without gradient, and the file's metadata.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    tensors, metadata = load_checkpoint(path)
    return _frozen(_backbone_of(metadata), tensors, device), metadata


def load_exported(directory: Path | str, device: torch.device = CPU) -> tuple[SiT, WeightsMetadata]:
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
    return _frozen(_backbone_of(metadata), tensors, device), metadata


def load_teacher(path: Path, device: torch.device) -> tuple[SiTTrunk, TeacherMetadata]:
    """The frozen teacher of a file that ``freeze_teacher`` wrote, and the file's metadata.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    tensors, metadata = TeacherMetadata.load(path)
    own = metadata.own_backbone is not None
    trunk = _backbone_of(metadata) if own else SiTTrunk(metadata.shape)
    return _frozen(trunk, tensors, device), metadata


def _backbone_of(metadata: WeightsMetadata | TeacherMetadata) -> SiT:
    """A fresh network as a file describes it."""
    shape = metadata.shape
    if metadata.own_backbone is None:
        return SiT(shape)
    backbone = build_backbone(
        own_backbone(metadata.own_backbone), shape.latent_shape, shape.num_classes
    )
    if shape.intermediate_depth is not None:
        backbone.add_intermediate_layer(shape.intermediate_depth)
    return backbone


def own_backbone(settings: Mapping[str, Any]) -> BackboneConfig:
    """The settings of a backbone of the user's own, as a weight file holds them.

    Raises:
        UserError: its class cannot be loaded, or does not take them.
    """
    try:
        model: BackboneConfig = _BACKBONE.validate_python(settings)
    except ValidationError as error:
        reason = " ".join(error.errors()[0]["msg"].split())
        raise UserError(f"backbone {settings.get('kind')!r}: {reason}") from None
    return model


def _frozen(model: M, tensors: dict[str, Tensor], device: torch.device) -> M:
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval().to(device)
