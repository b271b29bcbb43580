"""Fetch what experiments need from elsewhere.

Compute nodes often have no network. Run on a login node, this leaves autoencoders, encoders, text
encoders and CLIP in the Hugging Face cache and the extractors' weights in ours; jobs with
``HF_HUB_OFFLINE=1`` then find them. Images are only looked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from selftrans.config import (
    CocoSource,
    DatasetConfig,
    ExperimentConfig,
    FileSource,
    PretrainedAutoencoderConfig,
    PretrainedEncoderConfig,
    PretrainedTextEncoderConfig,
    load_experiment,
)
from selftrans.evaluation.references import REFERENCE_BATCHES
from selftrans.evaluation.weights import WEIGHT_FILES, PublishedFile, fetch_weights, find_weights
from selftrans.runtime.errors import UserError
from selftrans.runtime.logs import LOG
from workflow.lib.settings import WorkflowConfig


def required(
    experiment: ExperimentConfig, weights: Mapping[Any, str]
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What an experiment needs from elsewhere, by name, with the function that finds or fetches it.

    Args:
        experiment: the experiment.
        weights: where the extractors' weights lie, if not in the cache.
    """
    data = experiment.data
    for one in experiment.datasets:
        if isinstance(one.source, FileSource):
            yield f"images of {one.name}", partial(_images, one)
    if isinstance(data.autoencoder, PretrainedAutoencoderConfig):
        for name in dict.fromkeys((data.autoencoder.path, data.autoencoder.decoder)):
            if name is not None:
                yield f"autoencoder {name}", partial(_autoencoder, name)
    used = {encoder.name for run in experiment.runs.values() for encoder in run.encoders}
    if experiment.analysis and experiment.analysis.encoder:
        used.add(experiment.analysis.encoder)
    for name in sorted(used):
        if isinstance(encoder := data.encoders[name], PretrainedEncoderConfig):
            yield f"encoder {encoder.model}", partial(_encoder, encoder)
    for extractor in experiment.evaluation.extractors:
        if extractor != "classifier":
            path = Path(weights[extractor]) if extractor in weights else None
            yield f"weights of {extractor}", partial(_file, WEIGHT_FILES[extractor], path)
    if experiment.condition == "caption":
        yield from _required_by_captions(experiment)
    if data.reference and not Path(data.reference).exists():
        yield f"reference {data.reference}", partial(_reference, Path(data.reference))


def _required_by_captions(
    experiment: ExperimentConfig,
) -> Iterator[tuple[str, Callable[[], object]]]:
    for data in experiment.datasets:
        if isinstance(encoder := data.text_encoder, PretrainedTextEncoderConfig):
            yield f"text encoder {encoder.path}", partial(_text_encoder, encoder)
    if "clip" in experiment.evaluation.scorers:
        yield f"CLIP {experiment.evaluation.clip}", partial(_clip, experiment.evaluation.clip)


def _images(data: DatasetConfig) -> None:
    source = data.source
    assert isinstance(source, FileSource)
    needed = [(source.path, "images")]
    if isinstance(source, CocoSource):
        needed.append((source.annotations, "captions"))
    for path, what in needed:
        if not Path(path).exists():
            raise UserError(f"{path}: the {what} of {data.name!r} do not exist (config.yaml: data)")


def _autoencoder(path: str) -> None:
    import torch

    from selftrans.models.autoencoder import load_autoencoder

    load_autoencoder(path, torch.device("cpu"))


def _encoder(settings: PretrainedEncoderConfig) -> None:
    from selftrans.models.encoder import load_published

    load_published(settings)


def _text_encoder(settings: PretrainedTextEncoderConfig) -> None:
    from selftrans.models.pretrained import fetch
    from selftrans.models.text_encoder import load_text_encoder

    fetch("text encoder", settings.path)
    load_text_encoder(settings)


def _clip(path: str) -> None:
    from selftrans.evaluation.clip_score import Clip
    from selftrans.models.pretrained import fetch

    fetch("CLIP", path)
    Clip(path)


def _file(file: PublishedFile, path: Path | None) -> None:
    if path is None:
        fetch_weights(file)
    else:
        find_weights(file, path)


def _reference(path: Path) -> None:
    if path.name not in REFERENCE_BATCHES:
        raise UserError(
            f"{path}: no such file, nor a published one that can be fetched (data file: reference)"
        )
    fetch_weights(REFERENCE_BATCHES[path.name], path.parent)


def prefetch(experiments: Sequence[str], settings: WorkflowConfig) -> None:
    """Fetch what experiments need, and say for each thing whether it is there.

    Args:
        experiments: names or files; if there are none, those of the settings.
        settings: what ``config.yaml`` says.

    Raises:
        UserError: something is not there.
    """
    requirements: dict[str, Callable[[], object]] = {}
    for name in experiments or settings.references():
        requirements |= dict(required(load_experiment(name, settings.data), settings.weights))
    missing = []
    for name, fetch in requirements.items():
        try:
            fetch()
            LOG.info("%s: there", name)
        except UserError as error:
            LOG.info("%s", error)
            missing.append(name)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(requirements)} not there: {', '.join(missing)};"
            " the reasons stand above"
        )
    LOG.info("nothing is missing")
