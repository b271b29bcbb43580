"""Fresh backbones: of a configured size, and as a weight file describes one."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from selftrans.config import Backbone as AnyBackbone
from selftrans.config import BackboneConfig, ConditionSize
from selftrans.models.backbone import Backbone, Trunk
from selftrans.models.metadata import TeacherMetadata, WeightsMetadata
from selftrans.models.mmdit import MMDiT, MMDiTTrunk
from selftrans.models.shape import BackboneShape, MMDiTShape
from selftrans.models.sit import SiT, SiTTrunk
from selftrans.runtime.errors import UserError

_SETTINGS: TypeAdapter[BackboneConfig] = TypeAdapter(AnyBackbone)


def build_backbone(
    model: BackboneConfig, latent_shape: tuple[int, int, int], condition: ConditionSize
) -> Backbone:
    """A fresh backbone: ours, or what a class of the user's own builds.

    Raises:
        UserError: the class builds something else than a backbone of ours or a subclass of it.
    """
    backbone = model.build(latent_shape, condition)
    if not isinstance(backbone, SiT | MMDiT):
        raise UserError(
            f"model.kind: {model.kind!r} builds a {type(backbone).__name__}"
            " (allowed: selftrans.models.sit.SiT, selftrans.models.mmdit.MMDiT, or a subclass)"
        )
    return backbone


def backbone_of(metadata: WeightsMetadata | TeacherMetadata) -> Backbone:
    """A fresh network as a file describes it."""
    shape = metadata.shape
    if metadata.own_backbone is None:
        return MMDiT(shape) if isinstance(shape, MMDiTShape) else SiT(shape)
    model = own_backbone(metadata.own_backbone)
    backbone = build_backbone(model, shape.latent_shape, shape.condition_size)
    if shape.intermediate_depth is not None:
        assert isinstance(backbone, SiT)
        backbone.add_intermediate_layer(shape.intermediate_depth)
    return backbone


def trunk_of(shape: BackboneShape) -> Trunk:
    """A fresh network without output layer: what a frozen teacher is."""
    return MMDiTTrunk(shape) if isinstance(shape, MMDiTShape) else SiTTrunk(shape)


def own_backbone(settings: Mapping[str, Any]) -> BackboneConfig:
    """The settings of a backbone of the user's own, as a weight file holds them.

    Raises:
        UserError: its class cannot be loaded, or does not take them.
    """
    try:
        model: BackboneConfig = _SETTINGS.validate_python(settings)
    except ValidationError as error:
        reason = " ".join(error.errors()[0]["msg"].split())
        raise UserError(f"backbone {settings.get('kind')!r}: {reason}") from None
    return model
