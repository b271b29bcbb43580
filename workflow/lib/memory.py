"""How much of a node's memory each kind of job needs, in megabytes, with 25 % headroom."""

import math

from selftrans.config import (
    DECODED_ELEMENTS,
    ENCODE_BATCH,
    AnalysisConfig,
    BackboneConfig,
    DatasetConfig,
    ExperimentConfig,
    PretrainedTextEncoderConfig,
    RunConfig,
    TrainedAutoencoderConfig,
)
from selftrans.flops import EXTRACTOR_FLOP, EXTRACTOR_LENGTHS, parameters, tokens_of
from workflow.lib.work import REFERENCE_IMAGES, condition_size

PROCESS_MB, GPU_PROCESS_MB = 800, 4000
"""Of a process before it holds anything: measured on a CPU; on a GPU the host's part of CUDA and
its libraries, an estimate."""
HEADROOM = 1.25
TRAINING_ACTIVATIONS = 20
"""Elements that a training step on a CPU keeps for each block, token and unit of hidden size: 15 to
18 on SiT-S/2 and SiT-B/2, measured over three steps (in the first one there are no moments yet)."""
SAMPLING_ACTIVATIONS = 16
"""The same of a forward pass, for one block at a time."""
CODING_BYTES = 2600
"""Of a pixel in the published autoencoder on a CPU, either way, measured at 256."""
TEXT_ENCODER_BYTES, TEXT_BYTES = 4.9e8, 400
"""CLIP ViT-L/14's text encoder in fp32, and a caption as Python holds it, twice."""
CLIP_BYTES = 1.72e9
"""CLIP ViT-L/14 in fp32."""
FEATURE_BYTES = 15e6
"""Of an image in Inception on a CPU, measured."""
AUTOENCODER_BYTES, EXTRACTOR_BYTES = 335e6, {"inception": 1.0e8, "dinov2": 1.2e9}
SMALL_NETWORK_BYTES = 1.6e9
"""Of a small network, its optimizer and a batch."""


def megabytes(workers: int, gpu: bool, held: float, on_cpu: float = 0.0) -> int:
    """Memory of a job's processes on one node, in whole hundreds of megabytes.

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
    """Memory of a training on each node.

    Every process reads the whole state; on a CPU it also computes in that memory.
    """
    data, shape = experiment.data, experiment.data.latent_shape

    def weights(model: BackboneConfig) -> int:
        return parameters(model, shape, condition_size(data, model))

    own = weights(run.model)
    teachers = sum(
        weights(experiment.runs[teacher.choice.run].model) for teacher in run.teachers.values()
    )
    samples = run.training.batch_size / run.training.accumulate / workers
    tokens = samples * _tokens(run.model, data)
    activations = TRAINING_ACTIVATIONS * run.model.depth * tokens * run.model.hidden_size
    # Weights, their average and two moments; on a CPU the gradient, too.
    held, on_cpu = 4 * (4 * own + teachers), 4 * (own + activations)
    return megabytes(workers // nodes, gpu, held, on_cpu)


def _tokens(model: BackboneConfig, data: DatasetConfig) -> int:
    """Tokens that a backbone computes with: those of the image, and of its caption."""
    captions = data.caption_shape if model.condition == "caption" else None
    return tokens_of(model, data.latent_shape[1]) + (captions[0] if captions else 0)


def sampling_memory(
    experiment: ExperimentConfig, run: RunConfig, workers: int, gpu: bool, batch_size: int
) -> int:
    """Memory of generating samples, or of reading features of a backbone.

    Guided samples pass through it twice.
    """
    data, model = experiment.data, run.model
    tokens = 2 * batch_size * _tokens(model, data)
    passing = 4 * SAMPLING_ACTIVATIONS * tokens * model.hidden_size
    weights = 4 * parameters(model, data.latent_shape, condition_size(data, model))
    decoding = 0.0
    if not isinstance(data.autoencoder, TrainedAutoencoderConfig):
        images = max(1, DECODED_ELEMENTS // math.prod(data.latent_shape))
        decoding = images * data.image_size**2 * CODING_BYTES
    return megabytes(workers, gpu, weights + AUTOENCODER_BYTES, max(passing, decoding))


def extraction_memory(data: DatasetConfig, workers: int, gpu: bool) -> int:
    """Memory of extracting latents or features: a batch of images, and two decoded ahead."""
    pixels = ENCODE_BATCH * data.image_size**2
    trained = isinstance(data.autoencoder, TrainedAutoencoderConfig)
    on_cpu = 0.0 if trained else pixels * CODING_BYTES
    return megabytes(workers, gpu, AUTOENCODER_BYTES + 3 * 3 * 4 * pixels, on_cpu)


def captions_memory(data: DatasetConfig, workers: int, gpu: bool) -> int:
    """Memory of encoding captions: a published encoder's weights, and all texts."""
    trained = isinstance(data.text_encoder, PretrainedTextEncoderConfig)
    held = TEXT_ENCODER_BYTES if trained else 0.0
    return megabytes(workers, gpu, held + TEXT_BYTES * (data.captions or 0))


def statistics_memory(extractor: str, workers: int, gpu: bool, batch_size: int) -> int:
    """Memory of features and statistics of images, or of metrics from those of two sets."""
    length = EXTRACTOR_LENGTHS[extractor][0]
    stored = 4 * (2 * REFERENCE_IMAGES * length + 8 * length**2)
    held = EXTRACTOR_BYTES.get(extractor, 0.0) + stored / workers
    on_cpu = FEATURE_BYTES if extractor in EXTRACTOR_FLOP else 0.0
    return megabytes(workers, gpu, held, batch_size * on_cpu)


def scoring_memory(scorer: str, images: int, side: int, gpu: bool) -> int:
    """Memory of comparing pictures with captions: CLIP, or all pictures, twice, for the reader."""
    held = CLIP_BYTES if scorer == "clip" else 2 * 3.0 * images * side**2
    return megabytes(1, gpu, held + SMALL_NETWORK_BYTES)


def probing_memory(model: BackboneConfig, analysis: AnalysisConfig) -> int:
    """Memory of probing the features of every block and time: read at once, copied where probed."""
    features = len(analysis.times) * model.depth * analysis.num_images * model.hidden_size
    return megabytes(1, False, 4 * 1.5 * features)


def small_memory(gpu: bool) -> int:
    """Memory of what trains or applies small networks."""
    return megabytes(1, gpu, SMALL_NETWORK_BYTES)
