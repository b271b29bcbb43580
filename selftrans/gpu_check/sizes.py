"""How large what is checked is: on a card, and in miniature."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selftrans.config import BackboneConfig, ConditionSize, MMDiTConfig
from selftrans.flops import forward_flop

STABLE_DIFFUSION: Mapping[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
"""Sizes of Stable Diffusion's autoencoder, for diffusers' ``AutoencoderKL``."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of networks, batches and repetitions; the defaults are those on a card."""

    miniature: bool = False
    """Whether speeds say nothing about the machine."""
    latent_shape: tuple[int, int, int] = (4, 32, 32)
    num_classes: int = 1000
    caption_shape: tuple[int, int] = (77, 768)
    """Tokens of a caption, and their length: CLIP ViT-L/14's."""
    compared: Mapping[str, BackboneConfig] = field(
        default_factory=lambda: {
            "SiT-6x768/2": BackboneConfig.from_preset("SiT-B/2", depth=6),
            "MMDiT-6x768/2": MMDiTConfig.from_preset("MMDiT-24x768/2", depth=6),
        }
    )
    """Backbones that are compared with the CPU, which computes most of the time. A further one is a
    line here."""
    timed: Mapping[str, BackboneConfig] = field(
        default_factory=lambda: {
            "SiT-B/2": BackboneConfig.from_preset("SiT-B/2"),
            "MMDiT-24x768/2": MMDiTConfig.from_preset("MMDiT-24x768/2"),
            "SiT-XL/2": BackboneConfig.from_preset("SiT-XL/2"),
        }
    )
    """Backbones whose speed is measured; rates of plans are those of the last. A further one is a
    line here."""
    encoder: tuple[int, int] = (16, 768)
    """Tokens per side and their length, of the encoder that REPA follows: DINOv2 ViT-B."""
    projector_width: int = 2048
    compared_batch: int = 10
    """Images in comparisons of losses and gradients, three of them in the range of times."""
    sampled: int = 4
    """Images that are sampled and decoded in comparisons."""
    compared_steps: int = 8
    """Sampling steps in comparisons."""
    autoencoder: Mapping[str, Any] = field(default_factory=lambda: STABLE_DIFFUSION)
    image_size: int = 256
    inception_images: int = 128
    """Of each of the two sets whose distance is computed."""
    fid_features: int = 2048
    """First features that the distance is of."""
    stopped: Mapping[str, BackboneConfig] = field(
        default_factory=lambda: {
            "SiT": BackboneConfig.from_preset("SiT-S/2", depth=6),
            "MMDiT": MMDiTConfig.from_preset(
                "MMDiT-24x768/2", depth=6, hidden_size=384, num_heads=6
            ),
        }
    )
    """Backbones of trainings that are stopped, resumed or shared: their states are saved often."""
    trained_steps: int = 12
    """Optimizer steps of trainings that are stopped, resumed or shared."""
    trained_batch: int = 128
    timed_batch: int = 32
    """Images in a timed training step."""
    largest_batch: int = 1024
    """The search for the largest batch that fits ends here."""
    repetitions: int = 5
    sampled_batch: int = 64
    """Images that are sampled, encoded, decoded or seen at a time where that is timed."""
    matrix_side: int = 8192
    compile_steps: int = 10
    compile_backend: str = "inductor"

    def condition_of(self, model: BackboneConfig) -> ConditionSize:
        """What a backbone is conditioned on."""
        return self.num_classes if model.condition == "class" else self.caption_shape

    def forward_flop(self, model: BackboneConfig) -> float:
        """Operations of a backbone for one sample."""
        condition = self.condition_of(model)
        captions = condition if isinstance(condition, tuple) else None
        return forward_flop(model, self.latent_shape, condition_size=captions)

    def training_flop(self, model: BackboneConfig) -> float:
        """Operations of a training step for one sample: a pass forward, and two backward."""
        return 3 * self.forward_flop(model)


def miniature() -> Sizes:
    """The same checks of tiny networks, in seconds of one core; their speeds mean nothing."""
    tiny = BackboneConfig(depth=3, hidden_size=32, num_heads=2, patch_size=2)
    text = MMDiTConfig(kind="mmdit", depth=3, hidden_size=32, num_heads=2, patch_size=2)
    return Sizes(
        miniature=True,
        latent_shape=(4, 8, 8),
        num_classes=10,
        caption_shape=(6, 8),
        compared={"SiT": tiny, "MMDiT": text},
        timed={"MMDiT": text, "SiT": tiny},
        stopped={"SiT": tiny, "MMDiT": text},
        encoder=(4, 24),
        projector_width=32,
        compared_batch=4,
        sampled=2,
        compared_steps=3,
        autoencoder={
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (8, 8, 8),
            "layers_per_block": 1,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "mid_block_add_attention": False,
        },
        image_size=32,
        inception_images=2,
        fid_features=16,
        trained_steps=4,
        trained_batch=8,
        timed_batch=4,
        largest_batch=8,
        repetitions=1,
        sampled_batch=1,
        matrix_side=64,
        compile_steps=6,
        compile_backend="eager",
    )
