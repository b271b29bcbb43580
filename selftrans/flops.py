"""Operations and parameters of the networks: a multiplication and an addition are two operations.

Counted from the settings alone; timm is needed only to count a published encoder that is not
DINOv2: importing it takes longer than planning an experiment.
"""

import math
from functools import cache
from itertools import pairwise
from statistics import NormalDist

from selftrans.config import (
    BackboneConfig,
    ConditionSize,
    DatasetConfig,
    MMDiTConfig,
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
DINOV2 = {
    "vit_small_patch14_dinov2": (12, 384),
    "vit_base_patch14_dinov2": (12, 768),
    "vit_large_patch14_dinov2": (24, 1024),
}
"""Depth and hidden size of the models of arXiv:2304.07193, by their names in timm."""
DINOV2_PATCH = 14


def tokens_of(model: BackboneConfig, side: int) -> int:
    """Tokens T of a latent."""
    return (side // model.patch_size) ** 2


def stream_flop(model: BackboneConfig, tokens: int, has_output: bool = True) -> float:
    """Operations of a block on one stream of tokens, but for the product of its attention.

    A stream without output is projected to queries, keys and values, and no further.
    """
    hidden_size = model.hidden_size
    keys = tokens * 6 * hidden_size**2 + 4 * hidden_size**2
    if not has_output:
        return keys
    mlp = tokens * 4 * hidden_size * int(hidden_size * model.mlp_ratio)
    return keys + tokens * 2 * hidden_size**2 + mlp + 8 * hidden_size**2


def blocks_flop(model: BackboneConfig, tokens: int, length: int, blocks: int) -> float:
    """Operations of the first ``blocks`` blocks on an image and a text of ``length`` tokens.

    After them the text has no output.
    """
    attention = 4 * (length + tokens) ** 2 * model.hidden_size
    flop = blocks * (attention + stream_flop(model, tokens))
    if length:
        flop += (blocks - 1) * stream_flop(model, length) + stream_flop(model, length, False)
    return flop


def forward_flop(
    model: BackboneConfig,
    latent_shape: tuple[int, int, int],
    blocks: int | None = None,
    condition_size: ConditionSize | None = None,
) -> float:
    """Operations of a backbone for one sample; or only of its embedders and first ``blocks``.

    Args:
        model: the backbone.
        latent_shape: (C, H, W).
        blocks: of a teacher that was cut.
        condition_size: of a caption, (L, K); a class takes no operations.
    """
    length, size = condition_size if isinstance(condition_size, tuple) else (0, 0)
    assert isinstance(model, MMDiTConfig) == (length > 0)
    tokens, hidden_size = tokens_of(model, latent_shape[1]), model.hidden_size
    patch = 2 * tokens * latent_shape[0] * model.patch_size**2 * hidden_size
    embedders = patch + 2 * hidden_size * (FREQUENCIES + hidden_size + length * size)
    if blocks is not None:
        return embedders + blocks_flop(model, tokens, length, blocks)
    whole = blocks_flop(model, tokens, length, model.depth)
    return embedders + whole + patch + 4 * hidden_size**2


def stream_parameters(model: BackboneConfig, has_output: bool = True) -> int:
    """Number of parameters of a block on one stream of tokens."""
    hidden_size, hidden = model.hidden_size, int(model.hidden_size * model.mlp_ratio)
    # A layer norm has a bias, a root mean square has none.
    norms = 2 if isinstance(model, MMDiTConfig) else 4
    norms *= hidden_size // model.num_heads if model.qk_norm else 0
    keys = _linear(hidden_size, 3 * hidden_size) + norms + _linear(hidden_size, 2 * hidden_size)
    if not has_output:
        return keys
    mlp = _linear(hidden_size, hidden) + _linear(hidden, hidden_size)
    return keys + _linear(hidden_size, hidden_size) + mlp + _linear(hidden_size, 4 * hidden_size)


def backbone_flop(model: BackboneConfig, data: DatasetConfig, blocks: int | None = None) -> float:
    """Operations of a backbone for one sample of a data set; or of its first ``blocks``."""
    captions = data.caption_shape if model.condition == "caption" else None
    return forward_flop(model, data.latent_shape, blocks, captions)


def parameters(
    model: BackboneConfig, latent_shape: tuple[int, int, int], condition_size: ConditionSize
) -> int:
    """Number of parameters of a backbone, its fixed table of positions included.

    Args:
        model: the backbone.
        latent_shape: (C, H, W).
        condition_size: number of classes, or shape (L, K) of a caption; its null condition is one
            more class, or a caption that is stored with the weights.
    """
    hidden_size, patch = model.hidden_size, latent_shape[0] * model.patch_size**2
    ends = _linear(patch, hidden_size) + _linear(hidden_size, patch)
    ends += _linear(hidden_size, 2 * hidden_size) + tokens_of(model, latent_shape[1]) * hidden_size
    time = _linear(FREQUENCIES, hidden_size) + _linear(hidden_size, hidden_size)
    blocks = model.depth * stream_parameters(model)
    if isinstance(condition_size, int):
        return ends + time + (condition_size + 1) * hidden_size + blocks
    length, size = condition_size
    text = (model.depth - 1) * stream_parameters(model) + stream_parameters(model, False)
    return ends + time + _linear(size, hidden_size) + length * size + blocks + text


def _linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear map with bias."""
    return (inputs + 1) * outputs


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


def _published_encoder(model: str, input_size: int) -> tuple[int, float]:
    name = model.partition(".")[0]
    if name not in DINOV2:
        return _timm_encoder(model, input_size)
    depth, hidden_size = DINOV2[name]
    tokens = (input_size // DINOV2_PATCH) ** 2
    # Of a block: attention and MLP, their biases, two layer norms, and a scale behind each of both.
    weights = depth * (12 * hidden_size**2 + 15 * hidden_size)
    return tokens * hidden_size, 2 * tokens * weights


@cache
def _timm_encoder(model: str, input_size: int) -> tuple[int, float]:
    import timm
    import torch

    with torch.device("meta"):
        network = timm.create_model(model, img_size=input_size, num_classes=0)
    tokens = network.patch_embed.num_patches
    weights = sum(parameter.numel() for parameter in network.blocks.parameters())
    return tokens * network.num_features, 2 * tokens * weights
