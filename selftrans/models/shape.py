"""The shape of a backbone: known without building it, and kept with its weights."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from selftrans.config import BackboneConfig
from selftrans.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SiTShape:
    """All that decides the shapes of a backbone's parameters."""

    latent_shape: tuple[int, int, int]
    """(C, H, W)."""
    num_classes: int
    """K; the label table has one more row, for "no label"."""
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

    @classmethod
    def of(
        cls, model: BackboneConfig, latent_shape: tuple[int, int, int], num_classes: int
    ) -> "SiTShape":
        """The shape of a configured model on latents of this shape."""
        sizes = {field.name for field in fields(cls)} & {*BackboneConfig.model_fields}
        return cls(
            latent_shape=latent_shape,
            num_classes=num_classes,
            **{name: getattr(model, name) for name in sizes},
        )

    @property
    def grid_size(self) -> int:
        """Tokens per side."""
        return self.latent_shape[1] // self.patch_size

    def to_json(self) -> dict[str, Any]:
        """What ``SiTShape(**...)`` takes back; without what it does not have."""
        return {key: value for key, value in asdict(self).items() if value is not None}
