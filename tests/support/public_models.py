"""Public diffusion transformers, as their descriptions have them."""

import math

import torch
from torch import nn


class PublicModel(nn.Module):
    """SiT, REPA's SiT and DiT's network, from their description, with their parameter names."""

    def __init__(
        self,
        *,
        hidden_size=32,
        num_heads=2,
        depth=2,
        patch=2,
        size=8,
        sigma=False,
        qk_norm=False,
        heads_of_training=False,
    ):
        super().__init__()
        self.num_heads, self.patch, self.side, self.channels, self.sigma = (
            num_heads,
            patch,
            size // patch,
            4,
            sigma,
        )
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(4, hidden_size, patch, patch)})
        self.t_embedder = nn.ModuleDict(
            {
                "mlp": nn.Sequential(
                    nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
                )
            }
        )
        self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(11, hidden_size)})
        self.pos_embed = nn.Parameter(torch.zeros(1, self.side**2, hidden_size))
        self.blocks = nn.ModuleList(
            self.block(hidden_size, num_heads, qk_norm) for _ in range(depth)
        )
        out = patch * patch * 4 * (2 if sigma else 1)
        self.final_layer = nn.ModuleDict(
            {"linear": nn.Linear(hidden_size, out), "adaLN_modulation": modulation(hidden_size, 2)}
        )
        if heads_of_training:
            self.projectors = nn.ModuleList(
                [nn.Sequential(nn.Linear(hidden_size, 24), nn.SiLU(), nn.Linear(24, 16))]
            )

    @staticmethod
    def block(hidden_size, num_heads, qk_norm):
        attention = {
            "qkv": nn.Linear(hidden_size, 3 * hidden_size),
            "proj": nn.Linear(hidden_size, hidden_size),
        }
        if qk_norm:
            attention |= {
                name: nn.LayerNorm(hidden_size // num_heads, eps=1e-5)
                for name in ("q_norm", "k_norm")
            }
        return nn.ModuleDict({
            "attn": nn.ModuleDict(attention),
            "mlp": nn.ModuleDict(
                {
                    "fc1": nn.Linear(hidden_size, 4 * hidden_size),
                    "fc2": nn.Linear(4 * hidden_size, hidden_size),
                }
            ),
            "adaLN_modulation": modulation(hidden_size, 6),
        })  # fmt: skip

    def attend(self, attention, x):
        hidden_size = x.shape[2]
        length = hidden_size // self.num_heads
        queries, keys, values = attention["qkv"](x).split(hidden_size, dim=2)
        result = torch.zeros_like(x)
        for head in range(self.num_heads):
            part = slice(head * length, (head + 1) * length)
            q, k, v = queries[..., part], keys[..., part], values[..., part]
            if "q_norm" in attention:
                q, k = attention["q_norm"](q), attention["k_norm"](k)
            scores = q @ k.transpose(1, 2) / math.sqrt(length)
            likely = (scores - scores.amax(dim=2, keepdim=True)).exp()
            result[..., part] = likely / likely.sum(dim=2, keepdim=True) @ v
        return attention["proj"](result)

    def tokens(self, x, t, labels, depth=None):
        """After block ``depth``, and the condition."""
        frequencies = torch.tensor([10_000 ** (-k / 128) for k in range(128)], dtype=t.dtype)
        waves = torch.cat(
            [torch.cos(t[:, None] * frequencies), torch.sin(t[:, None] * frequencies)], dim=1
        )
        condition = self.t_embedder["mlp"](waves) + self.y_embedder["embedding_table"](labels)
        tokens = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks[:depth]:
            given = block["adaLN_modulation"](condition)[:, None].chunk(6, dim=2)
            shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = given
            normed = normalised(tokens) * (1 + scale_attention) + shift_attention
            tokens = tokens + gate_attention * self.attend(block["attn"], normed)
            normed = normalised(tokens) * (1 + scale_mlp) + shift_mlp
            hidden = nn.functional.gelu(block["mlp"]["fc1"](normed), approximate="tanh")
            tokens = tokens + gate_mlp * block["mlp"]["fc2"](hidden)
        return tokens, condition

    def forward(self, x, t, labels):
        tokens, condition = self.tokens(x, t, labels)
        shift, scale = self.final_layer["adaLN_modulation"](condition)[:, None].chunk(2, dim=2)
        patches = self.final_layer["linear"](normalised(tokens) * (1 + scale) + shift)
        return self.put_together(patches)[
            :, : self.channels
        ]  # what is learnt of the variance is dropped

    def put_together(self, patches):
        channels, p = self.channels * (2 if self.sigma else 1), self.patch
        image = patches.new_zeros(len(patches), channels, self.side * p, self.side * p)
        for row in range(self.side):
            for column in range(self.side):
                token = patches[:, row * self.side + column]
                for i in range(p):
                    for j in range(p):
                        start = (i * p + j) * channels
                        image[:, :, row * p + i, column * p + j] = token[
                            :, start : start + channels
                        ]
        return image


def modulation(hidden_size, parts):
    return nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, parts * hidden_size))


def normalised(x):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
