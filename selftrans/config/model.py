"""The backbone: a named size, or free numbers; SiT, MMDiT, or a class of the user's own."""

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, PlainValidator, SerializeAsAny, ValidationInfo, model_validator

from selftrans.config.base import Condition, ConfigModel, PositiveInt
from selftrans.config.user_code import is_reference, load_class

PresetName = Literal[
    "SiT-S/2", "SiT-S/4", "SiT-S/8", "SiT-B/2", "SiT-B/4", "SiT-B/8",
    "SiT-L/2", "SiT-L/4", "SiT-L/8", "SiT-XL/2", "SiT-XL/4", "SiT-XL/8",
]  # fmt: skip
# Depth, hidden size, heads of the DiT family (Peebles and Xie 2023, table 1), which SiT keeps.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


def _preset(name: str) -> dict[str, int]:
    size, patch_size = name.removeprefix("SiT-").split("/")
    depth, hidden_size, num_heads = SIZES[size]
    return {
        "depth": depth,
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "patch_size": int(patch_size),
    }


PRESETS: dict[str, dict[str, int]] = {name: _preset(name) for name in get_args(PresetName)}
MMDiTPresetName = Literal["MMDiT-24x768/2"]
# That of the authors' and REPA's text-to-image runs: as many heads as blocks, 32 elements each.
MMDIT_PRESETS: dict[str, dict[str, Any]] = {
    "MMDiT-24x768/2": {
        "kind": "mmdit", "depth": 24, "hidden_size": 768, "num_heads": 24, "patch_size": 2,
    },
}  # fmt: skip


class BackboneConfig(ConfigModel):
    """The backbone: a named size, or free numbers; numbers beside a name override it.

    A class of one's own is a subclass with further keys and a ``build`` of its own.
    """

    condition: ClassVar[Condition] = "class"
    """What it is conditioned on."""

    kind: str = "sit"
    """`sit` takes classes, `mmdit` takes captions; or `FILE.py:CLASS` or `MODULE:CLASS` of one's
    own."""
    preset: PresetName | None = None
    """`SiT-S/2`, `SiT-B/2`, `SiT-L/2`, `SiT-XL/2`, or the same with patch 4 or 8."""
    depth: Annotated[int, Field(gt=0, le=10_000)]
    """Number of transformer blocks."""
    hidden_size: Annotated[int, Field(gt=0, le=10**6)]
    """Length D of a token."""
    num_heads: PositiveInt
    """Attention heads; divides `hidden_size`."""
    patch_size: PositiveInt
    """Side p of the square of latents that becomes one token."""
    mlp_ratio: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """Hidden width of a block's MLP over D."""
    qk_norm: bool = True
    """Normalise queries and keys (on in the authors' runs, off in original SiT checkpoints)."""

    def build(self, latent_shape: tuple[int, int, int], condition: Any) -> Any:
        """A network of this size with fresh weights (``selftrans.models.sit.SiT``).

        Args:
            latent_shape: (C, H, W).
            condition: number of classes K; the null class is K.
        """
        # By name: reading an experiment does not import torch.
        return import_module("selftrans.models.sit").build_sit(self, latent_shape, condition)

    @classmethod
    def from_preset(cls, preset: PresetName | MMDiTPresetName, **changes: Any) -> Self:
        """A named size, with some of its numbers changed."""
        return cls.model_validate(expand_preset({"preset": preset, **changes}))

    @model_validator(mode="after")
    def _fits_sincos_table(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"num_heads: {self.num_heads} does not divide hidden_size {self.hidden_size}"
            )
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size: {self.hidden_size} is not a multiple of 4,"
                " as the 2-D sin-cos table needs"
            )
        return self


class MMDiTConfig(BackboneConfig):
    """The backbone MMDiT, whose condition is a caption: a named size, or free numbers.

    How many tokens a caption has, and how many elements each, is the data's. A class of one's own
    that is a subclass has a `kind: str` again.
    """

    condition: ClassVar[Condition] = "caption"
    """What it is conditioned on."""

    # Without a default, so that it identifies a run: SiT's may have the same numbers.
    kind: Literal["mmdit"]
    preset: MMDiTPresetName | None = None  # type: ignore[assignment]
    """`MMDiT-24x768/2`: 24 blocks of hidden size 768, patch 2."""
    qk_norm: bool = False
    """Normalise queries and keys by their root mean square (off in the authors' runs)."""

    def build(self, latent_shape: tuple[int, int, int], condition: Any) -> Any:
        """A network of this size with fresh weights (``selftrans.models.mmdit.MMDiT``).

        Args:
            latent_shape: (C, H, W).
            condition: tokens L of a caption, and elements K of each.
        """
        return import_module("selftrans.models.mmdit").build_mmdit(self, latent_shape, condition)


KINDS: dict[str, type[BackboneConfig]] = {"sit": BackboneConfig, "mmdit": MMDiTConfig}


def expand_preset(model: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that a backbone's ``preset`` stands for, under those that are given.

    An unknown name, which the model reports, stands for some numbers, so that no more is reported.
    """
    if (preset := model.get("preset")) is None:
        return dict(model)
    return {**(PRESETS | MMDIT_PRESETS).get(str(preset), PRESETS["SiT-B/2"]), **model}


def backbone_class(values: Any) -> type[BackboneConfig]:
    """The model of a backbone's settings, by their ``kind``; SiT's, where they do not say it.

    Raises:
        ValueError: in one line, why there is none.
    """
    kind = values.get("kind", "sit") if isinstance(values, Mapping) else "sit"
    if is_reference(kind):
        try:
            own: type[BackboneConfig] = load_class(kind, BackboneConfig)
        except ValueError as error:
            raise ValueError(f"kind: {error}") from None
        return own
    if not isinstance(kind, str) or kind not in KINDS:
        allowed = ", ".join(map(repr, KINDS))
        raise ValueError(f"kind: {kind!r} is unknown (allowed: {allowed}, or FILE.py:CLASS)")
    return KINDS[kind]


def _validate_backbone(values: Any, info: ValidationInfo) -> BackboneConfig:
    if isinstance(values, BackboneConfig):
        return values
    return backbone_class(values).model_validate(values, strict=True, context=info.context)


Backbone = Annotated[SerializeAsAny[BackboneConfig], PlainValidator(_validate_backbone)]
