"""SiT as a model of diffusers: the same network, saved and loaded as diffusers does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from selftrans.models.shape import SiTShape
from selftrans.models.sit import SiT


class SiTTransformer(SiT, ModelMixin, ConfigMixin):
    """SiT with ``save_pretrained`` and ``from_pretrained``.

    It predicts the velocity eps - z at t in [0, 1], where 0 is data and 1 is noise: the convention
    of diffusers' flow matching, whose sigma is t.

    Args:
        latent_shape: (C, H, W).
        num_classes: K; the null class is K.
        depth, hidden_size, num_heads, patch_size, mlp_ratio, qk_norm: as in ``SiTShape``.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_shape: Sequence[int],
        num_classes: int,
        depth: int,
        hidden_size: int,
        num_heads: int,
        patch_size: int,
        mlp_ratio: float = 4.0,
        qk_norm: bool = True,
    ) -> None:
        channels, height, width = latent_shape
        shape = SiTShape(
            latent_shape=(channels, height, width),
            num_classes=num_classes,
            depth=depth,
            hidden_size=hidden_size,
            num_heads=num_heads,
            patch_size=patch_size,
            mlp_ratio=mlp_ratio,
            qk_norm=qk_norm,
        )
        super().__init__(shape)

    @classmethod
    def of(cls, backbone: SiT) -> SiTTransformer:
        """A copy of a backbone, in eval mode; without a second output layer."""
        shape = replace(backbone.shape, intermediate_depth=None)
        transformer = cls(**shape.to_json())
        kept = {
            name: tensor
            for name, tensor in backbone.state_dict().items()
            if not name.startswith("intermediate_layer.")
        }
        transformer.load_state_dict(kept)
        return transformer.requires_grad_(False).eval()
