"""The shape of a backbone: known without building it, and kept with its weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, PlainSerializer, Tag

from selftrans.config import BackboneConfig
from selftrans.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """What decides the shapes of the parameters of any backbone's blocks."""

    latent_shape: tuple[int, int, int]
    """(C, H, W)."""
    depth: int
    hidden_size: int
    num_heads: int
    patch_size: int
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    intermediate_depth: int | None = None
    """Block that a second output layer predicts the velocity behind, if there is one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "latent_shape", tuple(self.latent_shape))
        _, height, width = self.latent_shape
        if height != width or height % self.patch_size:
            raise UserError(
                f"model.patch_size: {self.patch_size} does not divide the {height}x{width} latents"
                " into squares"
            )

    def sized(self, model: BackboneConfig) -> Self:
        """The same with the sizes of a configured model."""
        return replace(self, **_sizes(model))

    @property
    def grid_size(self) -> int:
        """Tokens per side."""
        return self.latent_shape[1] // self.patch_size

    def to_json(self) -> dict[str, Any]:
        """What the class takes back as its arguments; without what it does not have."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class SiTShape(TransformerShape):
    """All that decides the shapes of a SiT's parameters."""

    num_classes: int
    """K; the label table has one more row, for "no label"."""

    @property
    def condition_size(self) -> int:
        """K."""
        return self.num_classes

    @classmethod
    def of(
        cls, model: BackboneConfig, latent_shape: tuple[int, int, int], num_classes: int
    ) -> "SiTShape":
        """The shape of a configured model on latents of this shape."""
        return cls(latent_shape=latent_shape, num_classes=num_classes, **_sizes(model))


@dataclass(frozen=True, kw_only=True)
class MMDiTShape(TransformerShape):
    """All that decides the shapes of an MMDiT's parameters."""

    kind: Literal["mmdit"] = "mmdit"
    """Tells it from a SiT's in a file's metadata."""
    qk_norm: bool = False
    context_length: int = 77
    """Tokens L of a caption."""
    context_size: int = 768
    """Elements K of such a token."""

    @property
    def condition_size(self) -> tuple[int, int]:
        """(L, K)."""
        return self.context_length, self.context_size

    @classmethod
    def of(
        cls,
        model: BackboneConfig,
        latent_shape: tuple[int, int, int],
        context_shape: tuple[int, int],
    ) -> "MMDiTShape":
        """The shape of a configured model on latents and captions, (L, K), of these shapes."""
        length, size = context_shape
        return cls(
            latent_shape=latent_shape, context_length=length, context_size=size, **_sizes(model)
        )


def _sizes(model: BackboneConfig) -> dict[str, Any]:
    """What a configured model says of the shape of its backbone."""
    sizes = {field.name for field in fields(TransformerShape)} & {*BackboneConfig.model_fields}
    return {name: getattr(model, name) for name in sizes}


def _kind_of(shape: Any) -> str:
    """Whose shape it is, or what a file says of it: SiT's says nothing."""
    if isinstance(shape, Mapping):
        return str(shape.get("kind", "sit"))
    return "mmdit" if isinstance(shape, MMDiTShape) else "sit"


BackboneShape: TypeAlias = SiTShape | MMDiTShape
StoredShape: TypeAlias = Annotated[
    Annotated[SiTShape, Tag("sit")] | Annotated[MMDiTShape, Tag("mmdit")],
    Discriminator(
        _kind_of,
        custom_error_type="kind",
        custom_error_message="kind is unknown (allowed: 'mmdit', or none for a SiT)",
    ),
    PlainSerializer(TransformerShape.to_json),
]
"""A shape in the metadata of a file."""
