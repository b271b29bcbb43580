"""External encoders: a frozen vision transformer of timm's, uint8 images -> patch tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from selftrans.config import PretrainedEncoderConfig, TrainedEncoderConfig
from selftrans.runtime.errors import UserError
from selftrans.runtime.metadata import FileMetadata


class EncoderMetadata(FileMetadata):
    """Of an encoder's file."""

    kind: ClassVar[str] = "encoder"
    name: str
    """In the data file."""
    stand_in: bool
    """Whether it was trained here, on the data itself, for want of published weights."""
    input_size: int
    """Side of the images that the network takes, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of the pixels in [0, 1], by channel, that its inputs are normalised by."""
    architecture: dict[str, Any]
    """What timm builds the network from."""
    held_out_accuracy: float | None = None
    """Of one that was trained here, on images that it was not shown."""


class PatchEncoder:
    """A frozen encoder; but for rounding, its tokens do not depend on the rest of the batch.

    Args:
        network: a vision transformer of timm's.
        metadata: of its file.
    """

    def __init__(self, network: Any, metadata: EncoderMetadata) -> None:
        self.network, self.digest = network, metadata.digest
        self.name, self.stand_in = metadata.name, metadata.stand_in
        self.input_size = metadata.input_size
        self.grid_size: int = network.patch_embed.grid_size[0]
        self.hidden_size: int = network.embed_dim
        device = next(network.parameters()).device
        self._mean, self._std = (
            torch.tensor(values, device=device).reshape(1, 3, 1, 1)
            for values in (metadata.mean, metadata.std)
        )

    @torch.no_grad()
    def __call__(self, images_BHWC: Tensor) -> Tensor:
        """Patch tokens (B, T, D) of uint8 images (B, H, W, 3) of any size.

        Without class and register tokens. Pixels are normalised, then resized bicubically without
        antialias, as REPA's code does for DINOv2.
        """
        pixels = images_BHWC.to(self._mean.device).permute(0, 3, 1, 2).float() / 255
        pixels = (pixels - self._mean) / self._std
        if pixels.shape[-1] != self.input_size:
            pixels = functional.interpolate(
                pixels, (self.input_size, self.input_size), mode="bicubic"
            )
        tokens: Tensor = self.network.forward_features(pixels)
        # timm's models that pool normalise behind the pooling.
        if isinstance(getattr(self.network, "norm", None), nn.Identity):
            tokens = self.network.fc_norm(tokens)
        return tokens[:, self.network.num_prefix_tokens :]

    def check_attention(self, depths: Collection[int]) -> None:
        """Refuse blocks whose attention logits ``with_attention`` cannot give.

        Raises:
            UserError: there are fewer blocks, or their attention is not timm's plain one.
        """
        from timm.layers import Attention

        blocks = getattr(self.network, "blocks", ())
        if beyond := [depth for depth in depths if not 1 <= depth <= len(blocks)]:
            raise UserError(
                f"encoder {self.name!r}: block {beyond[0]} is none of its {len(blocks)} blocks"
            )
        for depth in depths:
            attention = getattr(blocks[depth - 1], "attn", None)
            if type(attention) is not Attention:
                kind = type(attention).__name__
                raise UserError(
                    f"encoder {self.name!r}: gives no attention logits, block {depth} has {kind}"
                    " (allowed: a vision transformer with timm's Attention)"
                )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.network.blocks)

    @torch.no_grad()
    def with_attention(
        self, images_BHWC: Tensor, depths: Collection[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Patch tokens, and the attention logits among patches in blocks, from one pass.

        The logits, (B, H, T, T) by depth counted from 1, are what each block's softmax is taken
        of, without class and register tokens.
        """
        read: dict[int, Tensor] = {}

        def keep(depth: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            read[depth] = inputs[0]

        attentions = {depth: self.network.blocks[depth - 1].attn for depth in depths}
        hooks = [
            attention.register_forward_pre_hook(partial(keep, depth))
            for depth, attention in attentions.items()
        ]
        try:
            tokens = self(images_BHWC)
        finally:
            for hook in hooks:
                hook.remove()
        prefix = self.network.num_prefix_tokens
        return tokens, {
            depth: _logits(attention, read[depth])[:, :, prefix:, prefix:]
            for depth, attention in attentions.items()
        }


def _logits(attention: Any, x_BTD: Tensor) -> Tensor:
    """What timm's ``Attention`` takes the softmax of, (B, H, T, T)."""
    qkv = attention.qkv(x_BTD).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    queries, keys = attention.q_norm(qkv[0]), attention.k_norm(qkv[1])
    logits: Tensor = attention.scale * queries @ keys.transpose(2, 3)
    return logits


def stand_in_architecture(settings: TrainedEncoderConfig, image_size: int) -> dict[str, Any]:
    """What timm builds the trained encoder from: its smallest vision transformer at other sizes.

    Without a class token.
    """
    return {
        "model_name": "vit_tiny_patch16_224",
        "img_size": image_size,
        "patch_size": settings.patch_size,
        "embed_dim": settings.hidden_size,
        "depth": settings.depth,
        "num_heads": settings.num_heads,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    }


def build_network(architecture: Mapping[str, Any], **options: Any) -> Any:
    """A vision transformer of timm's without a classifier.

    Raises:
        UserError: timm has no such model, or it is not a vision transformer for this image size.
    """
    import timm

    name = architecture["model_name"]
    try:
        network = timm.create_model(**architecture, num_classes=0, **options)
        _ = network.num_prefix_tokens, network.embed_dim
        if not network.patch_embed.grid_size[0]:
            raise ValueError("its patches are larger than the images")
    except (RuntimeError, TypeError, AttributeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"encoder {name!r}: is not a vision transformer of timm that can be used here"
            f" ({reason})"
        ) from None
    return network


def load_published(settings: PretrainedEncoderConfig) -> tuple[Any, dict[str, Any]]:
    """Timm's network with its published weights, and what it is built from.

    timm resamples the position table to ``input_size``, as REPA does.

    Raises:
        UserError: there is no such model, or its weights can be neither read nor fetched.
    """
    architecture = {"model_name": settings.model, "img_size": settings.input_size}
    options: dict[str, Any] = {"pretrained": True}
    build_network(architecture)  # any later error is due to the weights
    if settings.weights is not None:
        if not Path(settings.weights).is_file():
            raise UserError(
                f"encoder {settings.model!r}: weights: {settings.weights}: no such file"
            )
        options["pretrained_cfg_overlay"] = {"file": settings.weights}
    source = (
        settings.weights
        or "the Hugging Face hub (name a file as the encoder's `weights` where there is none)"
    )
    networks = []
    try:
        for seed in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                networks.append(build_network(architecture, **options))
    except Exception as error:  # the hub's client and torch raise a dozen kinds
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"encoder {settings.model!r}: no weights from {source}: {reason}") from None
    # timm accepts a file that lacks some, or all, of the weights: those are random, so they differ.
    again = networks[1].state_dict()
    if lacking := [
        name
        for name, tensor in networks[0].state_dict().items()
        if not torch.equal(tensor, again[name])
    ]:
        raise UserError(
            f"encoder {settings.model!r}: no weights from {source}:"
            f" {lacking[0]!r} is not among them"
        )
    return networks[0], architecture


def save_encoder(path: Path, network: Any, metadata: EncoderMetadata) -> str:
    """Write an encoder as one file that needs neither the hub nor its settings.

    Returns the digest of its weights.
    """
    return metadata.save(path, network.state_dict())


def load_encoder(path: Path, device: torch.device) -> PatchEncoder:
    """Read what ``save_encoder`` wrote.

    Raises:
        UserError: the file is absent, damaged or of another kind.
    """
    tensors, metadata = EncoderMetadata.load(path)
    network = build_network(metadata.architecture)
    network.load_state_dict(tensors)
    return PatchEncoder(network.requires_grad_(False).eval().to(device), metadata)
