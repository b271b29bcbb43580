"""What a notebook needs, in one import. It is light: what computes is imported when it is used.

from selftrans import api

run = api.load_run("digits", "sit", step=3000)
images = run.sample(["3", "7"], seed=1)         # uint8, (2, 32, 32, 3)
tokens = run.features(block=4, t=0.5)           # (16, T, D)
losses = run.training().step()
fid = run.metrics(run.sample(count=1000))["fid"]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selftrans.api.experiments import define_experiment, load_experiment
    from selftrans.api.loading import load_run, load_training, new_training
    from selftrans.api.measures import feature_statistics, image_statistics, metrics
    from selftrans.api.run import TrainedRun
    from selftrans.config import GuidanceConfig, SamplerConfig
    from selftrans.data.store import LatentStore
    from selftrans.evaluation.extractors import load_extractor
    from selftrans.models.weights import load_backbone, load_exported
    from selftrans.pipeline import SiTPipeline
    from selftrans.pipeline.export import export_pipeline
    from selftrans.sampling.generate import ImageSampler
    from selftrans.training.batches import BatchSource
    from selftrans.training.model import build_model

_MODULES = {
    "BatchSource": "selftrans.training.batches",
    "GuidanceConfig": "selftrans.config",
    "ImageSampler": "selftrans.sampling.generate",
    "LatentStore": "selftrans.data.store",
    "SamplerConfig": "selftrans.config",
    "SiTPipeline": "selftrans.pipeline",
    "TrainedRun": "selftrans.api.run",
    "build_model": "selftrans.training.model",
    "define_experiment": "selftrans.api.experiments",
    "export_pipeline": "selftrans.pipeline.export",
    "feature_statistics": "selftrans.api.measures",
    "image_statistics": "selftrans.api.measures",
    "load_backbone": "selftrans.models.weights",
    "load_experiment": "selftrans.api.experiments",
    "load_exported": "selftrans.models.weights",
    "load_extractor": "selftrans.evaluation.extractors",
    "load_run": "selftrans.api.loading",
    "load_training": "selftrans.api.loading",
    "metrics": "selftrans.api.measures",
    "new_training": "selftrans.api.loading",
}
"""Where each name is defined."""

__all__ = [
    "BatchSource",
    "GuidanceConfig",
    "ImageSampler",
    "LatentStore",
    "SamplerConfig",
    "SiTPipeline",
    "TrainedRun",
    "build_model",
    "define_experiment",
    "export_pipeline",
    "feature_statistics",
    "image_statistics",
    "load_backbone",
    "load_experiment",
    "load_exported",
    "load_extractor",
    "load_run",
    "load_training",
    "metrics",
    "new_training",
]


def __getattr__(name: str) -> Any:
    """A name of the interface, imported when it is asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"{__name__} has no {name!r} (known: {', '.join(_MODULES)})")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
