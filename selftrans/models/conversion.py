"""Weights of public diffusion transformers, converted into ours.

SiT, REPA, SRA, LayerSync, Self-Transcendence and other velocity models with DiT's parameter names
are understood, under either direction of time, and the MMDiT of REPA's and the authors' text to
image. DiT's own published weights, and SRA's on DiT, predict the noise at 1000 discrete times: not
a velocity model, and nothing in DiT's names or shapes says so. Imported, they would sample noise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isqrt, nextafter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selftrans.config import SIZES, Convention
from selftrans.models.mmdit import MMDiT
from selftrans.models.public_file import count_blocks
from selftrans.models.shape import BackboneShape, MMDiTShape, SiTShape
from selftrans.models.sit import SiT, sincos_table, timestep_frequencies
from selftrans.runtime.errors import UserError

TRAINING_HEADS = ("projectors.", "projectors_final.", "ap_head.")
"""Prefixes of what only training needs: REPA and both stages of Self-Transcendence, its stage 1
alone, SRA. SiT and LayerSync have no heads."""
KNOWN_HEADS = {hidden_size: num_heads for _, hidden_size, num_heads in SIZES.values()}
MMDIT_HEAD_SIZE = 32
"""The public MMDiT has as many heads as blocks, of this size."""


def takes_captions(tensors: Collection[str]) -> bool:
    """Whether a backbone with tensors of these names is an MMDiT; else it is a SiT."""
    return any(name.startswith("joint_blocks.") for name in tensors)


def read_shape(
    tensors: Mapping[str, Tensor],
    source: Path,
    *,
    num_heads: int | None = None,
    latent_size: int | None = None,
) -> BackboneShape:
    """The shape of a backbone, read off its tensors.

    Args:
        tensors: the weights, under plain names; a label table has a row more than classes, and an
            MMDiT's have ``null_context``.
        source: the file, for messages.
        num_heads: attention heads, for a hidden size that is not one of a public model's and a
            model without qk-norm: its tensors do not determine them.
        latent_size: height of the latents, for a file without ``pos_embed``.

    Raises:
        UserError: a tensor that is read is missing, or the number of heads or the latent size is
            needed or contradicted.
    """

    def sizes(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in tensors:
            raise UserError(f"{source}: lacks {name}")
        if tensors[name].ndim != dimensions:
            raise UserError(
                f"{source}: {name} is {_times(tensors[name])}, expected {dimensions} dimensions"
            )
        return tuple(tensors[name].shape)

    captions = takes_captions(tensors)
    blocks, block, norm = (
        ("joint_blocks", "joint_blocks.0.x_block", "ln_q")
        if captions
        else ("blocks", "blocks.0", "q_norm")
    )
    hidden_size, channels, patch, _ = sizes("x_embedder.proj.weight", 4)
    condition = sizes("null_context" if captions else "y_embedder.embedding_table.weight", 2)
    hidden, _ = sizes(f"{block}.mlp.fc1.weight", 2)
    depth = count_blocks(tensors, blocks)
    if latent_size is None:
        if "pos_embed" not in tensors:
            raise UserError(f"{source}: lacks pos_embed, so --latent-size is needed")
        latent_size = isqrt(sizes("pos_embed", 3)[1]) * patch
    if qk_norm := f"{block}.attn.{norm}.weight" in tensors:
        read = max(1, hidden_size // sizes(f"{block}.attn.{norm}.weight", 1)[0])
        if num_heads not in (None, read):
            raise UserError(f"{source}: num_heads is {read} by its qk-norm, expected {num_heads}")
        num_heads = read
        if captions and f"{block}.attn.{norm}.bias" in tensors:
            raise UserError(
                f"{source}: {block}.attn.{norm} has a bias, so it is a layer norm"
                " (allowed: root mean squares)"
            )
    elif num_heads is None and captions:
        num_heads = depth if hidden_size == MMDIT_HEAD_SIZE * depth else None
    elif num_heads is None:
        num_heads = KNOWN_HEADS.get(hidden_size)
    if num_heads is None:
        raise UserError(
            f"{source}: nothing in it tells the number of heads of hidden size {hidden_size},"
            " so --num-heads is needed"
        )
    if num_heads < 1 or hidden_size % num_heads:
        raise UserError(
            f"{source}: its hidden size {hidden_size} is not divided by {num_heads} heads"
        )
    ratio = hidden / hidden_size
    sizes_of_blocks: dict[str, Any] = {
        "latent_shape": (channels, latent_size, latent_size),
        "depth": depth,
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "patch_size": patch,
        # The hidden size times the ratio is rounded down.
        "mlp_ratio": ratio if int(hidden_size * ratio) == hidden else nextafter(ratio, hidden),
        "qk_norm": qk_norm,
    }
    if captions:
        length, size = condition
        return MMDiTShape(**sizes_of_blocks, context_length=length, context_size=size)
    return SiTShape(**sizes_of_blocks, num_classes=condition[0] - 1)


def to_ours(
    tensors: Mapping[str, Tensor],
    shape: BackboneShape,
    convention: Convention,
    source: Path,
    ignore: Collection[str] = (),
) -> dict[str, Tensor]:
    """The state dict of our backbone with the same velocity, in float32, with noise at t = 1.

    Args:
        tensors: the weights, under plain names.
        shape: the backbone's.
        convention: the model's direction of time.
        source: the file, for messages.
        ignore: further prefixes of tensors outside of the backbone.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape or type.
    """
    with torch.device("meta"):
        network = MMDiT(shape) if isinstance(shape, MMDiTShape) else SiT(shape)
    expected = network.state_dict()
    ignored = (*TRAINING_HEADS, *ignore)
    if unknown := [
        name for name in tensors if name not in expected and not name.startswith(ignored)
    ]:
        name = unknown[0]
        raise UserError(
            f"{source}: {name} is not part of the backbone;"
            f" if it may be left out: --ignore {_prefix(name)}"
        )
    fixed = {"pos_embed": sincos_table(shape.hidden_size, shape.grid_size)[None]}
    kept = {**fixed, **{name: tensor for name, tensor in tensors.items() if name in expected}}
    if missing := [name for name in expected if name not in kept]:
        raise UserError(f"{source}: lacks {missing[0]}")
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        kept[name] = _without_sigma(kept[name], expected[name], shape)
    for name, tensor in kept.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{source}: {name} is {_times(tensor)}, expected {_times(expected[name])}"
            )
        if not tensor.is_floating_point():
            raise UserError(
                f"{source}: {name} holds {tensor.dtype}, expected floating-point numbers"
            )
    ours = {name: tensor.float() for name, tensor in kept.items()}
    return reverse_time(ours) if convention == "data-at-1" else ours


def _without_sigma(tensor: Tensor, expected: Tensor, shape: BackboneShape) -> Tensor:
    """Of outputs with a learnt variance, 2C for each pixel of a patch, the first C."""
    if tensor.shape[:1] != (2 * len(expected),):
        return tensor
    return tensor.unflatten(0, (shape.patch_size**2, 2, shape.latent_shape[0]))[:, 0].flatten(0, 1)


def reverse_time(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of -m(x, 1 - t) from those of m(x, t); applied twice, it is the identity.

    The sign goes into the output layer. Time goes into the layer behind the sinusoids, by

        cos((1 - t) f) = cos f cos(t f) + sin f sin(t f),
        sin((1 - t) f) = sin f cos(t f) - cos f sin(t f).
    """
    first = tensors["t_embedder.mlp.0.weight"]
    of_cos, of_sin = first.double().chunk(2, dim=1)
    frequencies = timestep_frequencies(of_cos.shape[1])
    cos, sin = frequencies.cos(), frequencies.sin()
    turned = torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], dim=1)
    output = {
        name: -tensors[name] for name in ("final_layer.linear.weight", "final_layer.linear.bias")
    }
    return {**tensors, **output, "t_embedder.mlp.0.weight": turned.to(first.dtype)}


def _times(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _prefix(name: str) -> str:
    """The first part of a name, with its dot; for a tensor of a block, all of the name."""
    first, dot, _ = name.partition(".")
    return name if first in ("blocks", "joint_blocks") else first + dot
