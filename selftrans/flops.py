"""Operations and parameters of the networks: a multiplication and an addition are two operations.

Counted from the settings alone; torch is needed only to count a published encoder.
"""

import math
from functools import cache
from itertools import pairwise
from statistics import NormalDist

from selftrans.config import (
    BackboneConfig,
    ConditionSize,
    DatasetConfig,
    TimeMasking,
    TimeRangeConfig,
    TrainedEncoderConfig,
    TrainingConfig,
)

FREQUENCIES = 256
ENCODER_FLOP, DECODER_FLOP = 4.2e6, 9.5e6
"""Per pixel, of Stable Diffusion's autoencoder (83.7 million parameters), counted by torch's
FlopCounterMode at 256 and 512."""
EXTRACTOR_FLOP = {"inception": 11.4e9, "dinov2": 155e9}
"""Per image, of Inception at 299 pixels and DINOv2 ViT-L/14 at 224, counted likewise."""
EXTRACTOR_LENGTHS = {"inception": (2048, 2023), "dinov2": (1024,), "classifier": (64,)}
"""Lengths of the feature vectors whose means and covariances are stored; the features of the first
one are stored, too."""


def tokens_of(model: BackboneConfig, side: int) -> int:
    """Tokens T of a latent."""
    return (side // model.patch_size) ** 2


def block_flop(model: BackboneConfig, tokens: int) -> float:
    """Operations of one block for one sample: attention, MLP, modulation."""
    hidden_size = model.hidden_size
    attention = tokens * (8 * hidden_size**2 + 4 * tokens * hidden_size)
    mlp = tokens * 4 * hidden_size * int(hidden_size * model.mlp_ratio)
    return attention + mlp + 12 * hidden_size**2


def forward_flop(
    model: BackboneConfig, latent_shape: tuple[int, int, int], blocks: int | None = None
) -> float:
    """Operations of a backbone for one sample; or only of its embedders and first ``blocks``."""
    tokens, hidden_size = tokens_of(model, latent_shape[1]), model.hidden_size
    patch = 2 * tokens * latent_shape[0] * model.patch_size**2 * hidden_size
    embedders = patch + 2 * (FREQUENCIES * hidden_size + hidden_size**2)
    if blocks is not None:
        return embedders + blocks * block_flop(model, tokens)
    return embedders + model.depth * block_flop(model, tokens) + patch + 4 * hidden_size**2


def parameters(
    model: BackboneConfig, latent_shape: tuple[int, int, int], condition: ConditionSize
) -> int:
    """Number of parameters of a backbone, its fixed table of positions included."""
    assert isinstance(condition, int)
    hidden_size, patch = model.hidden_size, latent_shape[0] * model.patch_size**2
    hidden, head = int(hidden_size * model.mlp_ratio), hidden_size // model.num_heads
    block = (
        4 * hidden_size**2
        + 4 * hidden_size
        + 2 * hidden_size * hidden
        + hidden
        + hidden_size
        + 6 * hidden_size * (hidden_size + 1)
    )
    block += 4 * head if model.qk_norm else 0
    ends = patch * hidden_size + hidden_size + (patch + 2 * hidden_size) * (hidden_size + 1)
    embedders = (
        FREQUENCIES * hidden_size
        + hidden_size
        + hidden_size * (hidden_size + 1)
        + (condition + 1) * hidden_size
    )
    return model.depth * block + ends + embedders + tokens_of(model, latent_shape[1]) * hidden_size


def caption_bytes(captions: int, length: int, size: int) -> int:
    """Size of a caption store in half precision.

    MS-COCO's 414,113 captions at 77 tokens of 768 are 49 GB.
    """
    return (captions + 1) * length * size * 2


def mlp_training_flop(tokens: int, *sizes: int) -> float:
    """Operations of a training step of an MLP over tokens: forward, and twice that backward.

    Args:
        tokens: T.
        sizes: of its layers, from input to output.
    """
    return 3 * 2 * tokens * sum(size * following for size, following in pairwise(sizes))


def share_in_range(t_range: TimeRangeConfig, training: TrainingConfig) -> float:
    """Fraction of the samples whose t is in a range."""

    def below(t: float) -> float:
        if training.time_sampling == "uniform" or t in {0.0, 1.0}:
            return t
        sigma = t / (1 - t) if training.interpolant == "linear" else math.tan(math.pi * t / 2)
        return NormalDist().cdf(math.log(sigma))

    return below(t_range.high) - below(t_range.low)


def share_computed(
    t_range: TimeRangeConfig, masking: TimeMasking, training: TrainingConfig
) -> float:
    """Fraction of the samples that a term with a range of times is computed of."""
    return 1.0 if masking == "released" else share_in_range(t_range, training)


def encoder_output(data: DatasetConfig, name: str) -> tuple[int, float]:
    """Length of an encoder's features of an image, and operations: two per weight and token."""
    settings = data.encoders[name]
    if isinstance(settings, TrainedEncoderConfig):
        tokens = (data.image_size // settings.patch_size) ** 2
        return tokens * settings.hidden_size, tokens * settings.depth * 24 * settings.hidden_size**2
    return _published_encoder(settings.model, settings.input_size)


@cache
def _published_encoder(model: str, input_size: int) -> tuple[int, float]:
    import timm
    import torch

    with torch.device("meta"):
        network = timm.create_model(model, img_size=input_size, num_classes=0)
    tokens = network.patch_embed.num_patches
    weights = sum(parameter.numel() for parameter in network.blocks.parameters())
    return tokens * network.num_features, 2 * tokens * weights
