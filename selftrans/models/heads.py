"""Training-only heads: they live beside the backbone and are never needed to sample."""

from itertools import pairwise

from torch import Tensor, nn

from selftrans.models.shape import BackboneShape
from selftrans.models.sit import initialise_linear, unpatchify


def mlp(*sizes: int) -> nn.Sequential:
    """Linear maps with SiLU between them: (..., sizes[0]) -> (..., sizes[-1])."""
    first, *others = (nn.Linear(size, following) for size, following in pairwise(sizes))
    activated = (layer for linear in others for layer in (nn.SiLU(), linear))
    return nn.Sequential(first, *activated).apply(initialise_linear)


def projector(hidden_size: int, projector_width: int, output_size: int) -> nn.Sequential:
    """The three-layer MLP of REPA (Yu et al. 2025): (..., D) -> (..., D')."""
    return mlp(hidden_size, projector_width, projector_width, output_size)


def two_layer_head(hidden_size: int, projector_width: int) -> nn.Sequential:
    """The two-layer MLP of SRA (Jiang et al. 2025): (..., D) -> (..., D)."""
    return mlp(hidden_size, projector_width, hidden_size)


class ConvolutionProjector(nn.Module):
    """iREPA's 3x3 convolution over the grid of tokens (Singh et al. 2025): (B, T, D) -> (B, T, D').

    As in its code, the initial weights are torch's.
    """

    def __init__(self, hidden_size: int, output_size: int, grid_size: int) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.convolution = nn.Conv2d(hidden_size, output_size, kernel_size=3, padding=1)

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        """Project each token with its eight neighbours, zeros beyond the border."""
        grid = tokens_BTD.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))
        return self.convolution(grid).flatten(2).transpose(1, 2)


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
