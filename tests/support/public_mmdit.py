"""The authors' public text-to-image transformer, as its description has it."""

import math

import torch
from torch import nn

from tests.support.public_models import PublicModel, modulation, normalised


class PublicMMDiT(nn.Module):
    """MMDiT from its description, with the parameter names of the authors' files.

    Each head and each stream is computed by itself, the text's tokens before the image's. Queries
    and keys are divided by their root mean squares with ``qk_norm``, as in Stable Diffusion 3.5.
    """

    def __init__(
        self,
        *,
        hidden_size=32,
        num_heads=2,
        depth=3,
        patch=2,
        size=8,
        context_size=12,
        qk_norm=False,
        heads_of_training=None,
    ):
        super().__init__()
        self.num_heads, self.patch, self.side, self.channels = num_heads, patch, size // patch, 4
        self.sigma = False
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(4, hidden_size, patch, patch)})
        self.t_embedder = nn.ModuleDict(
            {
                "mlp": nn.Sequential(
                    nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
                )
            }
        )
        self.context_embedder = nn.Linear(context_size, hidden_size)
        self.register_buffer("pos_embed", torch.randn(1, self.side**2, hidden_size))
        self.joint_blocks = nn.ModuleList(
            nn.ModuleDict({
                "context_block": self.stream(hidden_size, num_heads, qk_norm, n == depth - 1),
                "x_block": self.stream(hidden_size, num_heads, qk_norm, False),
            })
            for n in range(depth)
        )  # fmt: skip
        self.final_layer = nn.ModuleDict({
            "linear": nn.Linear(hidden_size, patch * patch * 4),
            "adaLN_modulation": modulation(hidden_size, 2),
        })  # fmt: skip
        for name, head in (heads_of_training or {}).items():
            self.add_module(name, head)

    @staticmethod
    def stream(hidden_size, num_heads, qk_norm, only_keys_and_values):
        attention = {"qkv": nn.Linear(hidden_size, 3 * hidden_size)}
        if qk_norm:
            attention |= {name: nn.RMSNorm(hidden_size // num_heads) for name in ("ln_q", "ln_k")}
        if only_keys_and_values:
            parts = {"adaLN_modulation": modulation(hidden_size, 2)}
        else:
            attention["proj"] = nn.Linear(hidden_size, hidden_size)
            parts = {
                "mlp": nn.ModuleDict({
                    "fc1": nn.Linear(hidden_size, 4 * hidden_size),
                    "fc2": nn.Linear(4 * hidden_size, hidden_size),
                }),
                "adaLN_modulation": modulation(hidden_size, 6),
            }  # fmt: skip
        return nn.ModuleDict({"attn": nn.ModuleDict(attention), **parts})

    def queries_keys_values(self, attention, tokens):
        """Of each head."""
        length = tokens.shape[2] // self.num_heads
        parts = attention["qkv"](tokens).chunk(3, dim=2)
        for head in range(self.num_heads):
            q, k, v = (part[..., head * length : (head + 1) * length] for part in parts)
            if "ln_q" in attention:
                q = over_mean_square(q) * attention["ln_q"].weight
                k = over_mean_square(k) * attention["ln_k"].weight
            yield q, k, v

    def attend(self, text_attention, text, image_attention, image):
        streams = ((text_attention, text), (image_attention, image))
        heads = zip(*(self.queries_keys_values(*stream) for stream in streams), strict=True)
        mixed = []
        for of_text, of_image in heads:
            q, k, v = (torch.cat(pair, dim=1) for pair in zip(of_text, of_image, strict=True))
            scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
            likely = (scores - scores.amax(dim=2, keepdim=True)).exp()
            mixed.append(likely / likely.sum(dim=2, keepdim=True) @ v)
        mixed = torch.cat(mixed, dim=2)
        return mixed[:, : text.shape[1]], mixed[:, text.shape[1] :]

    @staticmethod
    def after_attention(block, tokens, mixed, given):
        gate_attention, shift_mlp, scale_mlp, gate_mlp = given
        tokens = tokens + gate_attention * block["attn"]["proj"](mixed)
        normed = normalised(tokens) * (1 + scale_mlp) + shift_mlp
        hidden = nn.functional.gelu(block["mlp"]["fc1"](normed), approximate="tanh")
        return tokens + gate_mlp * block["mlp"]["fc2"](hidden)

    def tokens(self, x, t, caption, depth=None):
        """The image's after block ``depth``, and the embedding of time."""
        frequencies = torch.tensor([10_000 ** (-k / 128) for k in range(128)], dtype=t.dtype)
        angles = t[:, None] * frequencies
        time = self.t_embedder["mlp"](torch.cat([torch.cos(angles), torch.sin(angles)], dim=1))
        image = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        text = self.context_embedder(caption)
        for block in self.joint_blocks[:depth]:
            text_block, image_block = block["context_block"], block["x_block"]
            of_text = text_block["adaLN_modulation"](time)[:, None].split(image.shape[2], dim=2)
            of_image = image_block["adaLN_modulation"](time)[:, None].split(image.shape[2], dim=2)
            mixed_text, mixed_image = self.attend(
                text_block["attn"],
                normalised(text) * (1 + of_text[1]) + of_text[0],
                image_block["attn"],
                normalised(image) * (1 + of_image[1]) + of_image[0],
            )
            image = self.after_attention(image_block, image, mixed_image, of_image[2:])
            if "mlp" in text_block:
                text = self.after_attention(text_block, text, mixed_text, of_text[2:])
        return image, time

    def forward(self, x, t, caption):
        image, time = self.tokens(x, t, caption)
        shift, scale = self.final_layer["adaLN_modulation"](time)[:, None].chunk(2, dim=2)
        patches = self.final_layer["linear"](normalised(image) * (1 + scale) + shift)
        return PublicModel.put_together(self, patches)


def over_mean_square(x):
    return x / (x.square().mean(dim=2, keepdim=True) + 1e-6).sqrt()
