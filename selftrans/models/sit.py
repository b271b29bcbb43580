"""SiT: a diffusion transformer with adaLN-Zero that predicts the velocity (Ma et al. 2024).

Its blocks are those of DiT (Peebles and Xie 2023). Shape suffixes: B batch, C latent channels, H
and W latent height and width, p patch side, T = (H/p)(W/p) tokens, D hidden size, F length of the
sinusoidal timestep vector. Parameter names are those of public SiT, DiT and REPA checkpoints.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selftrans.config import BackboneConfig
from selftrans.models.backbone import Backbone, BlockFeatures, Trunk
from selftrans.models.layers import Attention, Mlp, PatchEmbed
from selftrans.models.shape import BackboneShape, SiTShape
from selftrans.runtime.errors import UserError


def timestep_frequencies(
    count: int,
    max_period: float = 10_000.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    """Frequencies of the sinusoids of t, from 1 towards 1 / max_period, (F/2,)."""
    powers = torch.arange(count, dtype=dtype, device=device) / count
    return torch.exp(-math.log(max_period) * powers)


def sinusoids(t_B: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines of t at the frequencies, then sines, (B, F)."""
    angles = t_B[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedder(nn.Module):
    """Sinusoids of t, then an MLP: (B,) -> (B, D)."""

    def __init__(
        self, hidden_size: int, frequency_size: int = 256, max_period: float = 10_000.0
    ) -> None:
        super().__init__()
        self.frequency_size, self.max_period = frequency_size, max_period
        self.mlp = nn.Sequential(
            nn.Linear(frequency_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, t_B: Tensor) -> Tensor:
        """Embed the times; the sinusoids are never computed in less than float32."""
        t_B = t_B.to(torch.promote_types(t_B.dtype, torch.float32))
        frequencies = timestep_frequencies(
            self.frequency_size // 2, self.max_period, t_B.dtype, t_B.device
        )
        return self.mlp(sinusoids(t_B, frequencies).to(next(self.mlp.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """A table of K+1 rows; row K is the null class."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, labels_B: Tensor) -> Tensor:
        """Embed the classes, (B,) -> (B, D)."""
        return self.embedding_table(labels_B)


def add_scaled(base: Tensor, factor_BD: Tensor, x_BTD: Tensor) -> Tensor:
    """Per sample, base + factor x; the base is (B, T, D), or (B, 1, D) for all tokens."""
    return torch.addcmul(base, factor_BD[:, None], x_BTD)


def modulate(x_BTD: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """Per sample, x (1 + scale) + shift."""
    return add_scaled(shift_BD[:, None], 1 + scale_BD, x_BTD)


class Block(nn.Module):
    """Attention and MLP, each with adaptive layer norm and a gate that starts at zero."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden_size, num_heads, qk_norm)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(hidden_size, int(hidden_size * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x_BTD: Tensor, embedding_BD: Tensor) -> Tensor:
        """One block, modulated by the embedding of time and class."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(embedding_BD).chunk(
            6, dim=-1
        )
        attended = self.attn(modulate(self.norm1(x_BTD), shift1, scale1))
        x_BTD = add_scaled(x_BTD, gate1, attended)
        mixed = self.mlp(modulate(self.norm2(x_BTD), shift2, scale2))
        return add_scaled(x_BTD, gate2, mixed)

    def attention_logits(self, x_BTD: Tensor, condition_BD: Tensor) -> Tensor:
        """The block's attention before its softmax, (B, H, T, T), of the tokens before it."""
        shift, scale, *_ = self.adaLN_modulation(condition_BD).chunk(6, dim=-1)
        return self.attn.logits(modulate(self.norm1(x_BTD), shift, scale))


class FinalLayer(nn.Module):
    """Adaptive layer norm, then a linear map from a token to its patch."""

    def __init__(self, hidden_size: int, patch_elements: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, patch_elements)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x_BTD: Tensor, embedding_BD: Tensor) -> Tensor:
        """Patches, (B, T, p p C)."""
        shift, scale = self.adaLN_modulation(embedding_BD).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x_BTD), shift, scale))


class SiTFeatures(BlockFeatures):
    """Tokens after blocks of a SiT, and what else can be had of them in the same pass.

    Args:
        trunk: whose blocks these are.
        embedding_BD: what they were modulated by.
    """

    def __init__(self, trunk: "SiTTrunk", embedding_BD: Tensor) -> None:
        super().__init__()
        self.trunk, self.embedding_BD = trunk, embedding_BD

    def attention_logits(self, depth: int) -> Tensor:
        """Attention in block ``depth`` before its softmax, (B, H, T, T).

        The tokens before the block, those of ``depth - 1``, have to be among these. Queries and
        keys are computed again: the block's own attention is fused and keeps none.

        Raises:
            UserError: the block is of another kind, in a backbone of the user's own.
        """
        block = self.trunk.blocks[depth - 1]
        if not isinstance(block, Block):
            raise UserError(
                f"model: block {depth} has type {type(block).__name__} and gives no attention"
                " logits (allowed: selftrans.models.sit.Block)"
            )
        return block.attention_logits(self[depth - 1], self.embedding_BD)

    def intermediate_velocity(self) -> Tensor:
        """Velocity of the second output layer, (B, C, H, W).

        The tokens that it reads have to be among these.
        """
        trunk, depth = self.trunk, self.trunk.shape.intermediate_depth
        assert isinstance(trunk, SiT)
        assert trunk.intermediate_layer is not None
        assert depth is not None
        patches = trunk.intermediate_layer(self[depth], self.embedding_BD)
        return unpatchify(patches, trunk.shape)


class SiTTrunk(Trunk):
    """Embedders and blocks of SiT; its condition is a class, (B,)."""

    shape: SiTShape

    def __init__(self, shape: SiTShape) -> None:
        super().__init__()
        self.shape = shape
        channels, height, _ = shape.latent_shape
        self.x_embedder = PatchEmbed(height, shape.patch_size, channels, shape.hidden_size)
        self.t_embedder = TimestepEmbedder(shape.hidden_size)
        self.y_embedder = LabelEmbedder(shape.num_classes, shape.hidden_size)
        self.pos_embed = nn.Parameter(
            sincos_table(shape.hidden_size, shape.grid_size)[None], requires_grad=False
        )
        self.blocks = nn.ModuleList(
            Block(shape.hidden_size, shape.num_heads, shape.mlp_ratio, shape.qk_norm)
            for _ in range(shape.depth)
        )

    @property
    def each_block(self) -> Iterable[nn.Module]:
        """The blocks, in order."""
        return self.blocks

    def null_condition(self, count: int) -> Tensor:
        """The null class K, (B,)."""
        return torch.full((count,), self.shape.num_classes, device=self.pos_embed.device)

    def embedding(self, t_B: Tensor, condition_B: Tensor) -> Tensor:
        """The embedding of time and class, which modulates every block, (B, D)."""
        return self.t_embedder(t_B) + self.y_embedder(condition_B)

    def run_blocks(
        self,
        x_BCHW: Tensor,
        embedding_BD: Tensor,
        depths: Collection[int],
        last: int | None = None,
        pool: bool = False,
    ) -> tuple[Tensor, BlockFeatures]:
        """Tokens after block ``last`` (default: all), and after each of ``depths``, (B, T, D).

        Blocks are counted from 1; 0 is what the first one reads. With ``pool``, those of
        ``depths`` are means over tokens, (B, D).
        """
        x_BTD = self.x_embedder(x_BCHW) + self.pos_embed
        kept = SiTFeatures(self, embedding_BD)
        if 0 in depths:
            kept[0] = x_BTD.mean(dim=1) if pool else x_BTD
        for depth, block in enumerate(self.blocks[:last], start=1):
            if self.activation_checkpointing and self.training:
                x_BTD = checkpoint(block, x_BTD, embedding_BD, use_reentrant=False)
            else:
                x_BTD = block(x_BTD, embedding_BD)
            if depth in depths:
                kept[depth] = x_BTD.mean(dim=1) if pool else x_BTD
        return x_BTD, kept

    def tokens(self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor) -> Tensor:
        """Tokens after the last block, (B, T, D)."""
        return self.run_blocks(x_BCHW, self.embedding(t_B, condition_B), ())[0]

    def features(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        condition_B: Tensor,
        depths: Collection[int],
        pool: bool = False,
    ) -> BlockFeatures:
        """Tokens after each block of ``depths``, or their means; runs no deeper block."""
        embedding_BD = self.embedding(t_B, condition_B)
        return self.run_blocks(x_BCHW, embedding_BD, depths, max(depths), pool)[1]


class SiT(SiTTrunk, Backbone):
    """The backbone: velocity of noisy latents.

    A second output layer may predict it behind an earlier block, too (Internal Guidance).

    Args:
        shape: sizes of the network.
    """

    def __init__(self, shape: SiTShape) -> None:
        super().__init__(shape)
        self.intermediate_layer: FinalLayer | None = None
        self.final_layer = FinalLayer(
            shape.hidden_size, shape.patch_size**2 * shape.latent_shape[0]
        )
        initialise_transformer(self, self.x_embedder.proj)
        if shape.intermediate_depth is not None:
            self.add_intermediate_layer(shape.intermediate_depth)

    def add_intermediate_layer(self, depth: int) -> None:
        """Have a second output layer predict the velocity behind block ``depth``, zero at first."""
        shape = self.shape = replace(self.shape, intermediate_depth=depth)
        layer = FinalLayer(shape.hidden_size, shape.patch_size**2 * shape.latent_shape[0])
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
        self.intermediate_layer = layer

    def with_features(
        self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor, depths: Collection[int]
    ) -> tuple[Tensor, BlockFeatures]:
        """The velocity, and the tokens after each block of ``depths`` (counted from 1)."""
        embedding_BD = self.embedding(t_B, condition_B)
        x_BTD, features = self.run_blocks(x_BCHW, embedding_BD, depths)
        return unpatchify(self.final_layer(x_BTD, embedding_BD), self.shape), features

    def both_velocities(
        self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and that of the second output layer, from one pass."""
        assert self.shape.intermediate_depth is not None
        depths = (self.shape.intermediate_depth,)
        velocity, features = self.with_features(x_BCHW, t_B, condition_B, depths)
        return velocity, features.intermediate_velocity()


def build_sit(model: BackboneConfig, latent_shape: tuple[int, int, int], num_classes: int) -> "SiT":
    """A fresh SiT of a configured size."""
    return SiT(SiTShape.of(model, latent_shape, num_classes))


def initialise_transformer(model: nn.Module, patch_projection: nn.Conv2d) -> None:
    """Initial weights of DiT.

    Xavier-uniform maps, N(0, 0.02) embeddings, zeros for modulations and output.
    """
    model.apply(initialise_linear)
    nn.init.xavier_uniform_(patch_projection.weight.view(patch_projection.weight.shape[0], -1))
    assert patch_projection.bias is not None
    nn.init.zeros_(patch_projection.bias)
    for name, parameter in model.named_parameters():
        if name.startswith(("y_embedder.", "t_embedder.")) and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.02)
        elif "adaLN_modulation" in name or name.startswith("final_layer.linear"):
            nn.init.zeros_(parameter)


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero bias, for linear layers; others stay as they are."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def unpatchify(patches_BTP: Tensor, shape: BackboneShape) -> Tensor:
    """Patches (B, T, p p C) put together to (B, C, H, W)."""
    channels, height, width = shape.latent_shape
    side, patch = shape.grid_size, shape.patch_size
    grid = patches_BTP.reshape(-1, side, side, patch, patch, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, height, width)


def patchify(latents_BCHW: Tensor, shape: BackboneShape) -> Tensor:
    """Latents (B, C, H, W) cut into patches, (B, T, p p C): what ``unpatchify`` puts together."""
    channels, side, patch = shape.latent_shape[0], shape.grid_size, shape.patch_size
    grid = latents_BCHW.reshape(-1, channels, side, patch, side, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, patch * patch * channels)


def sincos_table(hidden_size: int, grid_size: int) -> Tensor:
    """Fixed positions, (T, D): sin and cos of a token's column, then of its row."""
    frequencies = 10_000.0 ** (
        -torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size // 4)
    )
    angles = torch.arange(grid_size, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = line.repeat(grid_size, 1)
    rows = line.repeat_interleave(grid_size, dim=0)
    return torch.cat([columns, rows], dim=1).float()
