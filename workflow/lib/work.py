"""How many operations a job takes, by arithmetic: a multiplication and an addition are two.

Plans and time limits rest on these counts.
"""

from collections.abc import Mapping

from selftrans.config import (
    DatasetConfig,
    DigitsSource,
    ExperimentConfig,
    RunConfig,
    SamplerConfig,
    TrainedAutoencoderConfig,
)
from selftrans.flops import (
    DECODER_FLOP,
    ENCODER_FLOP,
    EXTRACTOR_FLOP,
    encoder_output,
    forward_flop,
)
from selftrans.flow.times import velocity_passes
from selftrans.runtime.errors import UserError
from selftrans.training.work import Work, work_seconds

DIGITS = 1797
"""Images of scikit-learn's digits."""
REFERENCE_IMAGES = 50_000
"""Images of a large reference, as most publications use it."""


def count_classes(data: DatasetConfig) -> int:
    """Classes of a data set that may not exist yet: ten digits, else ImageNet's."""
    return 10 if isinstance(data.source, DigitsSource) else 1000


def count_images(data: DatasetConfig) -> int:
    """Number of images of a data set, by its file.

    Raises:
        UserError: the file does not say.
    """
    if isinstance(data.source, DigitsSource):
        return DIGITS
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


def features_work(data: DatasetConfig, encoder: str) -> Work:
    """Extracting an encoder's features of a data set."""
    return {"fp32": count_rows(data) * encoder_output(data, encoder)[1]}


def sampling_work(experiment: ExperimentConfig, run: RunConfig, sampler: SamplerConfig) -> Work:
    """Generating a set of samples and decoding it."""
    data, guidance = experiment.data, sampler.guidance
    passes = velocity_passes(
        sampler.sampler, sampler.num_steps, guidance.scale, guidance.low, guidance.high
    )
    generating = sampler.num_samples * passes * forward_flop(run.model, data.latent_shape)
    work: Work = {sampler.precision: generating}
    if not isinstance(data.autoencoder, TrainedAutoencoderConfig):
        decoding = sampler.num_samples * data.image_size**2 * DECODER_FLOP
        work[sampler.decoder_precision] = work.get(sampler.decoder_precision, 0.0) + decoding
    return work


def statistics_work(extractor: str, images: int) -> Work:
    """Features of images; nothing for a small classifier of our own."""
    return {"fp32": images * EXTRACTOR_FLOP.get(extractor, 0.0)}


def gpu_hours(work: Mapping[str, float], rates: Mapping[str, float]) -> float:
    """Hours of one GPU at the stated TFLOP/s of each arithmetic."""
    return work_seconds(work, rates) / 3600
