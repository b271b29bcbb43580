"""What a notebook needs, in one import: experiments, latents, models with their loss, samples."""

from selftrans.config import GuidanceConfig, SamplerConfig, load_experiment
from selftrans.data.store import LatentStore
from selftrans.models.weights import load_backbone, load_exported
from selftrans.sampling.generate import ImageSampler
from selftrans.training.batches import BatchSource
from selftrans.training.model import build_model

__all__ = [
    "BatchSource",
    "GuidanceConfig",
    "ImageSampler",
    "LatentStore",
    "SamplerConfig",
    "build_model",
    "load_backbone",
    "load_experiment",
    "load_exported",
]
