"""How many operations a job takes, by arithmetic: a multiplication and an addition are two.

Plans and time limits rest on these counts.
"""

from collections.abc import Mapping

from selftrans.config import (
    BackboneConfig,
    ConditionSize,
    DatasetConfig,
    DigitsSource,
    ExperimentConfig,
    PretrainedTextEncoderConfig,
    RunConfig,
    SamplerConfig,
    ScenesSource,
    TrainedAutoencoderConfig,
)
from selftrans.data.scenes.world import CLASS_NAMES
from selftrans.flops import (
    DECODER_FLOP,
    ENCODER_FLOP,
    EXTRACTOR_FLOP,
    backbone_flop,
    caption_bytes,
    encoder_output,
)
from selftrans.flow.times import velocity_passes
from selftrans.runtime.errors import UserError
from selftrans.training.work import Work, work_seconds

DIGITS = 1797
"""Images of scikit-learn's digits."""
CLIP_FLOP = 175e9
"""Of a picture and its caption in CLIP ViT-L/14: two for each weight and token."""
TEXT_LAYERS = 12
"""Layers of CLIP's text encoders, of which each has 12 squares of its width as weights."""
REFERENCE_IMAGES = 50_000
"""Images of a large reference, as most publications use it."""


def count_classes(data: DatasetConfig) -> int:
    """Classes of a data set that may not exist yet: those that are known, else ImageNet's."""
    match data.source:
        case DigitsSource():
            return 10
        case ScenesSource():
            return len(CLASS_NAMES)
    return 1 if data.source.has_captions else 1000


def condition_size(data: DatasetConfig, model: BackboneConfig) -> ConditionSize:
    """What a backbone is conditioned on: a number of classes, or the shape of captions' features.

    Raises:
        UserError: captions are wanted, and the data file names no text encoder.
    """
    if model.condition == "class":
        return count_classes(data)
    if data.caption_shape is None:
        raise UserError(f"data {data.name!r}: text_encoder: is needed by a backbone of captions")
    return data.caption_shape


def count_images(data: DatasetConfig) -> int:
    """Number of images of a data set, by its file.

    Raises:
        UserError: the file does not say.
    """
    if isinstance(data.source, DigitsSource):
        return DIGITS
    if isinstance(data.source, ScenesSource):
        return data.source.count
    if data.images is None:
        raise UserError(f"data {data.name!r}: images: is needed to plan before the data exist")
    return data.images


def count_reference(data: DatasetConfig) -> int:
    """Images that samples are measured against: all of the data set, or those of a large reference.

    Raises:
        UserError: the file does not say how many images there are.
    """
    return REFERENCE_IMAGES if data.reference else count_images(data)


def count_rows(data: DatasetConfig) -> int:
    """Rows of a data set's stores: its images, and their mirrored views if they are stored."""
    return count_images(data) * (2 if data.latents.flip else 1)


def encoding_work(data: DatasetConfig) -> Work:
    """Extracting the latents of a data set; nothing for a small autoencoder of our own."""
    if isinstance(data.autoencoder, TrainedAutoencoderConfig):
        return {}
    return {data.latents.precision: count_rows(data) * data.image_size**2 * ENCODER_FLOP}


def count_captions(data: DatasetConfig) -> int:
    """Number of captions of a data set, by its file.

    Raises:
        UserError: the file does not say.
    """
    if data.captions is None:
        raise UserError(f"data {data.name!r}: captions: is needed to plan before they are encoded")
    return data.captions


def captions_work(data: DatasetConfig) -> Work:
    """Encoding the captions of a data set; nothing for the stand-in."""
    if not isinstance(encoder := data.text_encoder, PretrainedTextEncoderConfig):
        return {}
    each = encoder.length * TEXT_LAYERS * 24 * encoder.size**2
    return {"fp32": count_captions(data) * each}


def captions_bytes(data: DatasetConfig) -> int:
    """Size of a data set's caption store."""
    assert data.text_encoder is not None
    return caption_bytes(count_captions(data), *data.text_encoder.shape)


def features_work(data: DatasetConfig, encoder: str) -> Work:
    """Extracting an encoder's features of a data set."""
    return {"fp32": count_rows(data) * encoder_output(data, encoder)[1]}


def sampling_work(experiment: ExperimentConfig, run: RunConfig, sampler: SamplerConfig) -> Work:
    """Generating a set of samples and decoding it."""
    data, guidance = experiment.data, sampler.guidance
    passes = velocity_passes(
        sampler.sampler, sampler.num_steps, guidance.scale, guidance.low, guidance.high
    )
    generating = sampler.num_samples * passes * backbone_flop(run.model, data)
    work: Work = {sampler.precision: generating}
    if not isinstance(data.autoencoder, TrainedAutoencoderConfig):
        decoding = sampler.num_samples * data.image_size**2 * DECODER_FLOP
        work[sampler.decoder_precision] = work.get(sampler.decoder_precision, 0.0) + decoding
    return work


def statistics_work(extractor: str, images: int) -> Work:
    """Features of images; nothing for a small classifier of our own."""
    return {"fp32": images * EXTRACTOR_FLOP.get(extractor, 0.0)}


def scoring_work(scorer: str, images: int) -> Work:
    """Comparing pictures with captions; nothing for the small reader of scenes."""
    return {"fp32": images * CLIP_FLOP} if scorer == "clip" else {}


def gpu_hours(work: Mapping[str, float], rates: Mapping[str, float]) -> float:
    """Hours of one GPU at the stated TFLOP/s of each arithmetic."""
    return work_seconds(work, rates) / 3600
