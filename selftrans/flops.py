"""How many operations and how much memory jobs take: a multiplication and an addition are two.

Needs torch only to count a published encoder. Plans, time limits and memory limits depend on it.
"""

import math
from collections.abc import Mapping
from functools import cache
from statistics import NormalDist

from selftrans.config import (
    DECODED_ELEMENTS,
    ENCODE_BATCH,
    AlignmentConfig,
    AnalysisConfig,
    BackboneConfig,
    DatasetConfig,
    DigitsSource,
    ExperimentConfig,
    ExtractorName,
    RunConfig,
    SamplerConfig,
    SelfTranscendenceConfig,
    SraConfig,
    TimeRangeConfig,
    TrainedAutoencoderConfig,
    TrainedEncoderConfig,
    TrainingConfig,
    VaeAlignmentConfig,
)
from selftrans.flow.times import velocity_passes
from selftrans.runtime.errors import UserError

FREQUENCIES = 256
ENCODER_FLOP, DECODER_FLOP = 4.2e6, 9.5e6
"""Per pixel, of Stable Diffusion's autoencoder (83.7 million parameters).

Counted by torch's FlopCounterMode at 256 and 512."""
EXTRACTOR_FLOP: dict[ExtractorName, float] = {"inception": 11.4e9, "dinov2": 155e9}
"""Per image, of Inception at 299 pixels and DINOv2 ViT-L/14 at 224, counted likewise."""
MANY_IMAGES = 50_000
"""Of a reference or a set of samples whose size is not known or does not matter."""
EXTRACTOR_LENGTHS: dict[str, tuple[int, ...]] = {
    "inception": (2048, 2023),
    "dinov2": (1024,),
    "classifier": (64,),
}
"""Lengths of feature vectors whose moments are stored; of the first, the features are, too."""

Work = dict[str, float]
"""Operations of a job by arithmetic (fp32, tf32, fp16, bf16)."""


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
    """Operations of a backbone, or of its embedders and first ``blocks``, for one sample."""
    tokens, hidden_size = tokens_of(model, latent_shape[1]), model.hidden_size
    patch = 2 * tokens * latent_shape[0] * model.patch_size**2 * hidden_size
    embedders = patch + 2 * (FREQUENCIES * hidden_size + hidden_size**2)
    if blocks is not None:
        return embedders + blocks * block_flop(model, tokens)
    return embedders + model.depth * block_flop(model, tokens) + patch + 4 * hidden_size**2


def parameters(model: BackboneConfig, latent_shape: tuple[int, int, int], num_classes: int) -> int:
    """Number of parameters of a backbone, its fixed table of positions included."""
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
        + (num_classes + 1) * hidden_size
    )
    return model.depth * block + ends + embedders + tokens_of(model, latent_shape[1]) * hidden_size


def count_classes(data: DatasetConfig) -> int:
    """Classes of a data set that does not exist yet: ten digits, else ImageNet's."""
    return 10 if isinstance(data.source, DigitsSource) else 1000


def alignment_flop(
    alignment: AlignmentConfig, experiment: ExperimentConfig, run: RunConfig
) -> float:
    """Operations of an alignment loss for one sample: its teacher's passes, and its projector."""
    shape, model, training = experiment.data.latent_shape, run.model, run.training
    hidden = getattr(alignment, "projector_width", None) or 0
    per_token = 3 * 2 * tokens_of(model, shape[1])
    head = per_token * (2 * model.hidden_size * hidden + hidden**2)
    match alignment:
        case SelfTranscendenceConfig():  # samples out of range are not computed
            teacher = experiment.runs[alignment.teacher.run].model
            teacher_flop = 2 * forward_flop(teacher, shape, alignment.teacher_depth)
            return share_in_range(alignment.t_range, training) * (teacher_flop + head)
        case VaeAlignmentConfig():
            return share_in_range(alignment.t_range, training) * head
        case SraConfig():
            head = per_token * 2 * model.hidden_size * (hidden or 2 * model.hidden_size)
            return forward_flop(model, shape, alignment.teacher_depth) + head
        case _:
            return head


def share_in_range(t_range: TimeRangeConfig, training: TrainingConfig) -> float:
    """Part of the samples whose t is in a range."""

    def below(t: float) -> float:
        if training.time_sampling == "uniform" or t in {0.0, 1.0}:
            return t
        sigma = t / (1 - t) if training.interpolant == "linear" else math.tan(math.pi * t / 2)
        return NormalDist().cdf(math.log(sigma))

    return below(t_range.high) - below(t_range.low)


def segment_flop(experiment: ExperimentConfig, run: RunConfig, before: int, step: int) -> float:
    """Operations of training a run from one step to another, on the global batch."""
    training, shape = run.training, experiment.data.latent_shape
    passes = 4 if training.activation_checkpointing else 3
    flop = (step - before) * passes * forward_flop(run.model, shape)
    for alignment in run.alignments:
        last = alignment.stop_after or step
        flop += (min(step, last) - min(before, last)) * alignment_flop(alignment, experiment, run)
    return flop * training.batch_size


def arithmetic_of(training: TrainingConfig) -> str:
    """Which rate a training runs at, on a GPU."""
    if training.precision != "fp32":
        return "bf16"
    return "tf32" if training.tf32 else "fp32"


# Jobs


def count_images(data: DatasetConfig) -> int:
    """How many images a data set has, by its file.

    Raises:
        UserError: the file does not say.
    """
    if isinstance(data.source, DigitsSource):
        return 1797
    if data.images is None:
        raise UserError(f"data {data.name!r}: images: is needed to plan before the data exist")
    return data.images


def count_reference(data: DatasetConfig) -> int:
    """Images of the reference: the data set's, or as many as a large reference has.

    Raises:
        UserError: the file does not say how many images there are.
    """
    return MANY_IMAGES if data.reference else count_images(data)


def count_rows(data: DatasetConfig) -> int:
    """Rows of a data set's stores: its images, and their mirrored views if it has them."""
    return count_images(data) * (2 if data.latents.flip else 1)


def encoder_output(data: DatasetConfig, name: str) -> tuple[int, float]:
    """Elements of an encoder's output for an image, and its operations: two per weight and token."""
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


def encoding_work(data: DatasetConfig) -> Work:
    """Extracting the latents of a data set; nothing for a small trained autoencoder."""
    if isinstance(data.autoencoder, TrainedAutoencoderConfig):
        return {}
    return {data.latents.precision: count_rows(data) * data.image_size**2 * ENCODER_FLOP}


def features_work(data: DatasetConfig, encoder: str) -> Work:
    """Extracting an encoder's features of a data set."""
    return {"fp32": count_rows(data) * encoder_output(data, encoder)[1]}


def segment_work(experiment: ExperimentConfig, run: RunConfig, before: int, step: int) -> Work:
    """Training a run from one step to another, with the encoders that it runs on images."""
    work: Work = {arithmetic_of(run.training): segment_flop(experiment, run, before, step)}
    for encoder in run.encoders:
        if encoder.features == "images":
            seen = (step - before) * run.training.batch_size
            flop = seen * encoder_output(experiment.data, encoder.name)[1]
            work["fp32"] = work.get("fp32", 0.0) + flop
    return work


def sampling_work(experiment: ExperimentConfig, run: RunConfig, sampler: SamplerConfig) -> Work:
    """Sampling a set of images and decoding it."""
    data, guidance = experiment.data, sampler.guidance
    passes = velocity_passes(
        sampler.sampler, sampler.num_steps, guidance.scale, guidance.low, guidance.high
    )
    work: Work = {
        sampler.precision: sampler.num_samples * passes * forward_flop(run.model, data.latent_shape)
    }
    if not isinstance(data.autoencoder, TrainedAutoencoderConfig):
        decoding = sampler.num_samples * data.image_size**2 * DECODER_FLOP
        work[sampler.decoder_precision] = work.get(sampler.decoder_precision, 0.0) + decoding
    return work


def statistics_work(extractor: ExtractorName, images: int) -> Work:
    """Features of images; nothing for a small trained classifier."""
    return {"fp32": images * EXTRACTOR_FLOP.get(extractor, 0.0)}


def gpu_hours(work: Mapping[str, float], rates: Mapping[str, float]) -> float:
    """Hours of one GPU at so many TFLOP/s in each arithmetic."""
    return (
        sum(
            flop / (rates["bf16" if precision == "fp16" else precision] * 1e12)
            for precision, flop in work.items()
        )
        / 3600
    )


# Memory

PROCESS_MB, GPU_PROCESS_MB = 800, 4000
"""Of an idle process: measured on a CPU; on a GPU with the host's part of CUDA, an estimate."""
HEADROOM = 1.25
ACTIVATIONS = 20
"""Elements that a training step on a CPU keeps per block, token and unit of the hidden size.

Measured: 15 to 18 on SiT-S/2 and SiT-B/2, over three steps, since the first has no moments yet."""
SAMPLED_ACTIVATIONS = 16
CODING_BYTES = 2600
"""Of a pixel in the published autoencoder on a CPU, either way, measured at 256."""
FEATURE_BYTES = 15e6
"""Of an image in Inception on a CPU, measured."""
AUTOENCODER_BYTES, EXTRACTOR_BYTES = 335e6, {"inception": 1.0e8, "dinov2": 1.2e9}


def megabytes(workers: int, gpu: bool, held: float, on_cpu: float = 0.0) -> int:
    """Memory of a job's processes on one node, with 25 % headroom.

    Args:
        workers: processes.
        gpu: whether they compute on GPUs.
        held: bytes that each holds in the host's memory in any case.
        on_cpu: bytes of its activations, which lie on the GPU where there is one.
    """
    each = (GPU_PROCESS_MB if gpu else PROCESS_MB) + (held + (0.0 if gpu else on_cpu)) / 1e6
    return 100 * math.ceil(HEADROOM * workers * each / 100)


def training_memory(
    experiment: ExperimentConfig, run: RunConfig, workers: int, nodes: int, gpu: bool
) -> int:
    """Megabytes of a segment on each node: every process reads the whole state.

    On a CPU it also trains in that memory.
    """
    shape, classes = experiment.data.latent_shape, count_classes(experiment.data)
    student = parameters(run.model, shape, classes)
    teachers = sum(
        parameters(experiment.runs[teacher.choice.run].model, shape, classes)
        for teacher in run.teachers
    )
    tokens = tokens_of(run.model, shape[1])
    samples = run.training.batch_size / run.training.accumulate / workers
    kept = ACTIVATIONS * run.model.depth * tokens * run.model.hidden_size * samples
    # Weights, their average, two moments; on a CPU the gradient, too.
    return megabytes(workers // nodes, gpu, 4 * (4 * student + teachers), 4 * (student + kept))


def sampling_memory(
    experiment: ExperimentConfig, run: RunConfig, workers: int, gpu: bool, batch_size: int
) -> int:
    """Megabytes of sampling, or of a backbone's features: guided samples pass through it twice."""
    data, model = experiment.data, run.model
    passing = (
        2
        * batch_size
        * SAMPLED_ACTIVATIONS
        * tokens_of(model, data.latent_shape[1])
        * model.hidden_size
    )
    weights = 4 * parameters(model, data.latent_shape, count_classes(data))
    images = max(1, DECODED_ELEMENTS // math.prod(data.latent_shape))
    decoded = (
        0.0
        if isinstance(data.autoencoder, TrainedAutoencoderConfig)
        else images * data.image_size**2 * CODING_BYTES
    )
    return megabytes(workers, gpu, weights + AUTOENCODER_BYTES, max(4 * passing, decoded))


def extraction_memory(data: DatasetConfig, workers: int, gpu: bool) -> int:
    """Megabytes of extracting latents or features: a batch of images, and two decoded ahead."""
    pixels = ENCODE_BATCH * data.image_size**2
    on_cpu = (
        0.0 if isinstance(data.autoencoder, TrainedAutoencoderConfig) else pixels * CODING_BYTES
    )
    return megabytes(workers, gpu, AUTOENCODER_BYTES + 3 * 3 * 4 * pixels, on_cpu)


def statistics_memory(extractor: ExtractorName, workers: int, gpu: bool, batch_size: int) -> int:
    """Megabytes of features and statistics of images, and of metrics of two large sets."""
    length = EXTRACTOR_LENGTHS[extractor][0]
    elements = 2 * MANY_IMAGES * length + 8 * length**2
    on_cpu = FEATURE_BYTES if extractor in EXTRACTOR_FLOP else 0.0
    return megabytes(
        workers,
        gpu,
        EXTRACTOR_BYTES.get(extractor, 0.0) + 4 * elements / workers,
        batch_size * on_cpu,
    )


def probing_memory(model: BackboneConfig, analysis: AnalysisConfig) -> int:
    """Megabytes of probing features of every block and time: read at once, copied when probed."""
    features = len(analysis.times) * model.depth * analysis.num_images * model.hidden_size
    return megabytes(1, False, 4 * 1.5 * features)


def small_memory(gpu: bool) -> int:
    """Megabytes of training or using small networks."""
    return megabytes(1, gpu, 1.6e9)
