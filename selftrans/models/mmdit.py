"""MMDiT: the joint-attention transformer of Stable Diffusion 3 (Esser et al. 2024), for captions.

Text and image are two streams of tokens. Each has its own norms, modulations, projections and MLP;
in every block both attend to the tokens of both. The blocks are modulated by the time alone: there
is no pooled vector of the text. Shape suffixes: B batch, C latent channels, H and W latent height
and width, p patch side, T = (H/p)(W/p) image tokens, L text tokens, K elements of a text token as
the text encoder gives it, D hidden size, E = D / heads. Parameter names are those of public files.
"""

from collections.abc import Collection, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selftrans.config import BackboneConfig
from selftrans.models.backbone import Backbone, BlockFeatures, Trunk
from selftrans.models.layers import Mlp, PatchEmbed
from selftrans.models.shape import MMDiTShape
from selftrans.models.sit import (
    FinalLayer,
    TimestepEmbedder,
    add_scaled,
    initialise_transformer,
    modulate,
    sincos_table,
    unpatchify,
)


class RMSNorm(nn.RMSNorm):
    """Division by the root mean square, in whatever precision the input has."""

    def forward(self, x: Tensor) -> Tensor:
        """As Stable Diffusion 3.5 normalises queries and keys."""
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class StreamAttention(nn.Module):
    """The part of one stream in the joint attention.

    Args:
        hidden_size: elements of a token.
        num_heads: attention heads; divides ``hidden_size``.
        qk_norm: whether queries and keys are normalised.
        has_output: whether the stream goes on; else it only gives keys and values.
    """

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool, has_output: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        head_size = hidden_size // num_heads
        self.ln_q = RMSNorm(head_size, eps=1e-6) if qk_norm else nn.Identity()
        self.ln_k = RMSNorm(head_size, eps=1e-6) if qk_norm else nn.Identity()
        if has_output:
            self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the stream, (B, heads, T, E) each."""
        qkv_3BHTE = self.qkv(x_BTD).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q_BHTE, k_BHTE, v_BHTE = qkv_3BHTE.unbind(0)
        return self.ln_q(q_BHTE), self.ln_k(k_BHTE), v_BHTE


class StreamBlock(nn.Module):
    """The layers of one stream in a joint block.

    Args:
        shape: sizes of the network.
        has_output: whether the stream goes on; else it only gives keys and values.
    """

    def __init__(self, shape: MMDiTShape, has_output: bool) -> None:
        super().__init__()
        size = shape.hidden_size
        self.has_output, self.vectors = has_output, 6 if has_output else 2
        self.norm1 = nn.LayerNorm(size, elementwise_affine=False, eps=1e-6)
        self.attn = StreamAttention(size, shape.num_heads, shape.qk_norm, has_output)
        if has_output:
            self.norm2 = nn.LayerNorm(size, elementwise_affine=False, eps=1e-6)
            self.mlp = Mlp(size, int(size * shape.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(size, self.vectors * size))

    def before(
        self, x_BTD: Tensor, time_BD: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
        """Queries, keys and values, and the vectors that modulate what comes after attention."""
        shift, scale, *others = self.adaLN_modulation(time_BD).chunk(self.vectors, dim=-1)
        return self.attn(modulate(self.norm1(x_BTD), shift, scale)), tuple(others)

    def after(
        self,
        x_BTD: Tensor,
        attended_BTD: Tensor,
        gate1_BD: Tensor,
        shift2_BD: Tensor,
        scale2_BD: Tensor,
        gate2_BD: Tensor,
    ) -> Tensor:
        """The stream after attention, projected, and its MLP, (B, T, D)."""
        x_BTD = add_scaled(x_BTD, gate1_BD, self.attn.proj(attended_BTD))
        mixed_BTD = self.mlp(modulate(self.norm2(x_BTD), shift2_BD, scale2_BD))
        return add_scaled(x_BTD, gate2_BD, mixed_BTD)


class JointBlock(nn.Module):
    """A text and an image stream that attend to both.

    Args:
        shape: sizes of the network.
        last: whether no block follows, so that the text stream needs no output.
    """

    def __init__(self, shape: MMDiTShape, last: bool) -> None:
        super().__init__()
        self.context_block = StreamBlock(shape, has_output=not last)
        self.x_block = StreamBlock(shape, has_output=True)

    def forward(self, x_BTD: Tensor, context_BLD: Tensor, time_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Image and text tokens after the block; those of a text without output stay as they are.

        Queries of such a text are computed like the others, to no effect: their parameters, which
        public files have, get the gradient zero, and data parallelism wants one of each.
        """
        of_text, text_modulation = self.context_block.before(context_BLD, time_BD)
        of_image, image_modulation = self.x_block.before(x_BTD, time_BD)
        q_BHSE, k_BHSE, v_BHSE = (
            torch.cat([text, image], dim=2) for text, image in zip(of_text, of_image, strict=True)
        )
        mixed_BHSE = F.scaled_dot_product_attention(q_BHSE, k_BHSE, v_BHSE)
        text_BLD, image_BTD = (
            mixed_BHSE.transpose(1, 2)
            .flatten(2)
            .split([context_BLD.shape[1], x_BTD.shape[1]], dim=1)
        )
        x_BTD = self.x_block.after(x_BTD, image_BTD, *image_modulation)
        if self.context_block.has_output:
            context_BLD = self.context_block.after(context_BLD, text_BLD, *text_modulation)
        return x_BTD, context_BLD


class MMDiTTrunk(Trunk):
    """Embedders and blocks of an MMDiT; its condition is a caption's tokens, (B, L, K).

    A trunk that was cut off a deeper network ends like any other: its last block has a text stream
    without output, which no image token needs.
    """

    shape: MMDiTShape

    def __init__(self, shape: MMDiTShape) -> None:
        super().__init__()
        self.shape = shape
        channels, height, _ = shape.latent_shape
        self.x_embedder = PatchEmbed(height, shape.patch_size, channels, shape.hidden_size)
        self.t_embedder = TimestepEmbedder(shape.hidden_size)
        self.context_embedder = nn.Linear(shape.context_size, shape.hidden_size)
        self.pos_embed = nn.Parameter(
            sincos_table(shape.hidden_size, shape.grid_size)[None], requires_grad=False
        )
        self.null_context = nn.Parameter(
            torch.zeros(shape.context_length, shape.context_size), requires_grad=False
        )
        self.joint_blocks = nn.ModuleList(
            JointBlock(shape, last=depth == shape.depth) for depth in range(1, shape.depth + 1)
        )

    @property
    def each_block(self) -> Iterable[nn.Module]:
        """The blocks, in order."""
        return self.joint_blocks

    def null_condition(self, count: int) -> Tensor:
        """The empty caption, for so many samples, (B, L, K)."""
        return self.null_context.expand(count, -1, -1)

    def set_null_condition(self, null: Tensor) -> None:
        """Take the text encoder's features of the empty caption, (1, L, K); before, they are zeros.

        They are saved with the weights.
        """
        (null_LK,) = null
        assert null_LK.shape == self.null_context.shape
        with torch.no_grad():
            self.null_context.copy_(null_LK)

    def run_blocks(
        self,
        x_BCHW: Tensor,
        time_BD: Tensor,
        condition_B: Tensor,
        depths: Collection[int],
        last: int | None = None,
        pool: bool = False,
    ) -> tuple[Tensor, BlockFeatures]:
        """Image tokens after block ``last`` (default: all) and after each of ``depths``, (B, T, D).

        Blocks are counted from 1. With ``pool``, those of ``depths`` are means over tokens, (B, D).
        """
        assert condition_B.shape[1:] == self.null_context.shape
        x_BTD = self.x_embedder(x_BCHW) + self.pos_embed
        # Features of text are stored in half precision.
        context_BLD = self.context_embedder(condition_B.to(self.context_embedder.weight.dtype))
        kept = BlockFeatures()
        if 0 in depths:
            kept[0] = x_BTD.mean(dim=1) if pool else x_BTD
        for depth, block in enumerate(self.joint_blocks[:last], start=1):
            if self.activation_checkpointing and self.training:
                x_BTD, context_BLD = checkpoint(
                    block, x_BTD, context_BLD, time_BD, use_reentrant=False
                )
            else:
                x_BTD, context_BLD = block(x_BTD, context_BLD, time_BD)
            if depth in depths:
                kept[depth] = x_BTD.mean(dim=1) if pool else x_BTD
        return x_BTD, kept

    def tokens(self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor) -> Tensor:
        """Image tokens after the last block, (B, T, D)."""
        return self.run_blocks(x_BCHW, self.t_embedder(t_B), condition_B, ())[0]

    def features(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        condition_B: Tensor,
        depths: Collection[int],
        pool: bool = False,
    ) -> BlockFeatures:
        """Image tokens after each block of ``depths``, or their means; runs no deeper block."""
        time_BD = self.t_embedder(t_B)
        return self.run_blocks(x_BCHW, time_BD, condition_B, depths, max(depths), pool)[1]


class MMDiT(MMDiTTrunk, Backbone):
    """The backbone for captions: velocity of noisy latents.

    Its initial weights follow SiT's rules. That is our choice: the authors' file leaves all of
    torch's but the positions.

    Args:
        shape: sizes of the network.
    """

    def __init__(self, shape: MMDiTShape) -> None:
        super().__init__(shape)
        self.final_layer = FinalLayer(
            shape.hidden_size, shape.patch_size**2 * shape.latent_shape[0]
        )
        initialise_transformer(self, self.x_embedder.proj)

    def with_features(
        self, x_BCHW: Tensor, t_B: Tensor, condition_B: Tensor, depths: Collection[int]
    ) -> tuple[Tensor, BlockFeatures]:
        """The velocity, and the image tokens after each block of ``depths``, counted from 1."""
        time_BD = self.t_embedder(t_B)
        x_BTD, features = self.run_blocks(x_BCHW, time_BD, condition_B, depths)
        return unpatchify(self.final_layer(x_BTD, time_BD), self.shape), features


def build_mmdit(
    model: BackboneConfig, latent_shape: tuple[int, int, int], context_shape: tuple[int, int]
) -> MMDiT:
    """A fresh MMDiT of a configured size, for captions (L, K)."""
    return MMDiT(MMDiTShape.of(model, latent_shape, context_shape))
