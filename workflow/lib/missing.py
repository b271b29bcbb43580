"""What a call's jobs need from elsewhere and is certain to be missing: said before the first job.

Only looked at, never fetched or read: what is there and wrong is said by the job that reads it.
"""

import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from selftrans.config import (
    CocoSource,
    DatasetConfig,
    FileSource,
    PretrainedAutoencoderConfig,
    PretrainedTextEncoderConfig,
    load_dataset,
)
from selftrans.evaluation.weights import WEIGHT_FILES, cache_directory
from workflow.lib.paths import Wildcards
from workflow.lib.study import Study

READ_IMAGES = {
    "autoencoder", "classifier", "encoder", "extract_latents", "extract_features",
    "extract_captions", "probe_encoder",
}  # fmt: skip
"""Rules whose jobs read the images of a data set."""

Planned = tuple[str, Wildcards]
"""The rule and the wildcards of a job that is to run."""


def missing(study: Study, jobs: Iterable[Planned]) -> list[str]:
    """A line for each thing that is missing, with the key that names it."""
    lines = (line for rule, wildcards in jobs for line in _missing(study, rule, wildcards))
    return list(dict.fromkeys(lines))


def _missing(study: Study, rule: str, wildcards: Wildcards) -> Iterator[str]:
    if rule == "extractor_weights":
        yield from _weights(study, wildcards["extractor"])
        return
    names = set(wildcards.keys())
    if not names & {"dataset", "experiment"}:
        return
    data = study.data_of(wildcards)
    reads_images = rule in READ_IMAGES or (rule == "reference_statistics" and not data.reference)
    if rule.startswith("train_segment"):
        reads_images = any(use.features == "images" for use in study.run_of(wildcards).encoders)
    if rule == "class_examples" and study.experiment_of(wildcards).condition == "caption":
        # Those that samples have the captions of stand beside them.
        data, reads_images = study.experiment_of(wildcards).datasets[-1], True
    key = f"config.yaml: data: {data.name}"
    if reads_images and isinstance(data.source, FileSource):
        yield from _path(data.source.path, f"{key}: source.path", "the images")
    if reads_images and isinstance(data.source, CocoSource):
        yield from _path(data.source.annotations, f"{key}: source.annotations", "the captions")
    if rule in ("extract_latents", "generate_samples", "generate_temporary_samples"):
        yield from _autoencoder(data, rule, key)
    if rule == "extract_captions" and isinstance(data.text_encoder, PretrainedTextEncoderConfig):
        path = data.text_encoder.path
        yield from _transformers_model(path, f"{key}: text_encoder.path", "the text encoder")
    if rule == "caption_metrics" and wildcards["extractor"] == "clip":
        experiment = study.experiment_of(wildcards)
        clip = f"{experiment.name}: evaluation.clip"
        yield from _transformers_model(experiment.evaluation.clip, clip, "CLIP")
    if rule == "reference_statistics" and data.reference:
        yield from _reference(data.reference, f"{key}: reference")


def _reference(reference: str, key: str) -> Iterator[str]:
    """A file or folder; of a data file, which is read as it is, its images."""
    what = "what samples are measured against"
    if Path(reference).is_file() and reference.endswith((".yaml", ".yml")):
        source = load_dataset(reference).source
        if not isinstance(source, FileSource):
            return
        reference, key = source.path, f"{key}: {reference}: source.path"
    yield from _path(reference, key, what)


def _path(path: str, key: str, what: str) -> Iterator[str]:
    if not Path(path).exists():
        yield f"{key}: {path}: no such file or folder ({what})"


def _autoencoder(data: DatasetConfig, rule: str, key: str) -> Iterator[str]:
    settings = data.autoencoder
    if not isinstance(settings, PretrainedAutoencoderConfig):
        return
    name, path = "path", settings.path
    if settings.decoder and rule != "extract_latents":
        name, path = "decoder", settings.decoder
    on_hub = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    offline = os.environ.get("HF_HUB_OFFLINE", "") in ("1", "ON", "YES", "TRUE")
    if Path(path).is_dir() or (on_hub and not offline):
        return
    if on_hub and isinstance(try_to_load_from_cache(path, "config.json"), str):
        return
    where = "not in the hub's cache, and HF_HUB_OFFLINE is set" if on_hub else "no such directory"
    yield f"{key}: autoencoder.{name}: {path}: {where} (the autoencoder)"


def _transformers_model(path: str, key: str, what: str) -> Iterator[str]:
    """Jobs never download one."""
    if find_spec("transformers") is None:
        yield f"{key}: {path}: needs transformers (pip install '.[text]')"
    if Path(path).is_dir():
        return
    on_hub = path.count("/") <= 1 and not path.startswith((".", "/", "~"))
    if not on_hub:
        yield f"{key}: {path}: no such directory ({what})"
    elif not isinstance(try_to_load_from_cache(path, "config.json"), str):
        fetch = f"`selftrans prefetch` or `hf download {path}` fetches it"
        yield f"{key}: {path}: not in the hub's cache ({what}; {fetch})"


def _weights(study: Study, extractor: str) -> Iterator[str]:
    chosen = {str(name): path for name, path in study.settings.weights.items()}
    file = WEIGHT_FILES[extractor]
    if extractor in chosen:
        yield from _path(chosen[extractor], f"config.yaml: weights: {extractor}", file.name)
    elif not study.settings.fetch_weights and not (cache_directory() / file.name).is_file():
        yield (
            f"config.yaml: weights: {extractor}: {cache_directory() / file.name}: no such file"
            f" ({file.name} from {file.url}; `fetch_weights: true` downloads it)"
        )
