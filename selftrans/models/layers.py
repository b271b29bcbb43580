"""The layers of a transformer's block and its patch embedding.

What timm's layers of these names compute, with their parameter names, which public checkpoints
have. They stand here because importing timm costs a process more than a second (it brings
torchvision and every model), and whatever trains, samples or analyses starts one. Shape suffixes:
B batch, T tokens, D hidden size, H heads, E = D/H; C channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Square patches of latents, each mapped to a token: (B, C, S, S) -> (B, T, D).

    Args:
        size: height and width of the latents.
        patch_size: height and width of a patch.
        channels: channels of the latents.
        hidden_size: elements of a token.
    """

    def __init__(self, size: int, patch_size: int, channels: int, hidden_size: int) -> None:
        super().__init__()
        self.size = size
        self.proj = nn.Conv2d(channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x_BCSS: Tensor) -> Tensor:
        """Tokens, row by row, each in one piece: what follows would copy them again and again."""
        assert x_BCSS.shape[2:] == (self.size, self.size)
        return self.proj(x_BCSS).flatten(2).transpose(1, 2).contiguous()


class Attention(nn.Module):
    """Self-attention of all tokens: (B, T, D) -> (B, T, D).

    Args:
        hidden_size: elements of a token.
        num_heads: attention heads; divides ``hidden_size``.
        qk_norm: whether queries and keys have a layer norm each.
    """

    def __init__(self, hidden_size: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        assert hidden_size % num_heads == 0
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = nn.LayerNorm(hidden_size // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(hidden_size // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Tokens that have looked at each other."""
        qkv_3BHTE = self.qkv(x_BTD).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q_BHTE, k_BHTE, v_BHTE = qkv_3BHTE.unbind(0)
        mixed_BHTE = F.scaled_dot_product_attention(
            self.q_norm(q_BHTE), self.k_norm(k_BHTE), v_BHTE
        )
        return self.proj(mixed_BHTE.transpose(1, 2).flatten(2))

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Products of queries and keys over the root of their length, (B, H, T, T).

        Their softmax is the attention that ``forward`` has, which keeps none of it.
        """
        both = 2 * x_BTD.shape[2]
        qk_BTD = F.linear(x_BTD, self.qkv.weight[:both], self.qkv.bias[:both])
        q_BHTE, k_BHTE = qk_BTD.unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scale = q_BHTE.shape[3] ** -0.5
        return scale * self.q_norm(q_BHTE) @ self.k_norm(k_BHTE).transpose(2, 3)


class Mlp(nn.Module):
    """Two linear maps with a GELU (its tanh approximation) between: (B, T, D) -> (B, T, D)."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, inner_size)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(inner_size, hidden_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Each token by itself."""
        return self.fc2(self.act(self.fc1(x_BTD)))
