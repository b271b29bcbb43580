"""Training-only heads: they live beside the backbone and are never needed to sample."""

from torch import Tensor, nn

from selftrans.models.shape import BackboneShape
from selftrans.models.sit import initialise_linear, unpatchify


def projector(hidden_size: int, projector_width: int, output_size: int) -> nn.Sequential:
    """The three-layer MLP with SiLU of REPA (Yu et al. 2025): (..., D) -> (..., D')."""
    layers = nn.Sequential(
        nn.Linear(hidden_size, projector_width),
        nn.SiLU(),
        nn.Linear(projector_width, projector_width),
        nn.SiLU(),
        nn.Linear(projector_width, output_size),
    )
    return layers.apply(initialise_linear)


def two_layer_head(hidden_size: int, projector_width: int) -> nn.Sequential:
    """The two-layer MLP with SiLU of SRA (Jiang et al. 2025): (..., D) -> (..., D)."""
    layers = nn.Sequential(
        nn.Linear(hidden_size, projector_width), nn.SiLU(), nn.Linear(projector_width, hidden_size)
    )
    return layers.apply(initialise_linear)


class LatentHead(nn.Module):
    """Projector, layer norm, linear, unpatchify: tokens (B, T, D) to latents (B, C, H, W)."""

    def __init__(self, shape: BackboneShape, projector_width: int) -> None:
        super().__init__()
        self.shape = shape
        self.projector = projector(shape.hidden_size, projector_width, shape.hidden_size)
        self.norm = nn.LayerNorm(shape.hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(shape.hidden_size, shape.patch_size**2 * shape.latent_shape[0])
        self.linear.apply(initialise_linear)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Predict latents from tokens."""
        return unpatchify(self.linear(self.norm(self.projector(tokens_BTD))), self.shape)
