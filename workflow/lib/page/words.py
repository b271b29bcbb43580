"""An experiment in words: what was asked, and how it is measured."""

from collections.abc import Mapping
from typing import Any

from selftrans.config import (
    AlignmentConfig,
    DatasetConfig,
    DigitsSource,
    ExperimentConfig,
    RunConfig,
    SamplerConfig,
    ScenesSource,
    TrainedAutoencoderConfig,
    TrainingConfig,
)
from selftrans.config.user_code import is_own_class
from selftrans.flops import backbone_flop, tokens_of
from selftrans.training.work import segment_work
from workflow.lib.work import count_images

SAMPLERS = {
    "euler": "Euler",
    "heun": "Heun",
    "euler-maruyama": "Euler-Maruyama (SDE)",
    "dopri5": "Dormand-Prince 5(4)",
}
SOURCES = {
    "digits": "the handwritten digits of scikit-learn",
    "scenes": "drawn scenes with captions",
    "folder": "a folder of images",
    "zip": "a zip of images",
    "coco": "images of MS-COCO with captions",
    "huggingface": "a Hugging Face data set",
    "uvit": "images with captions, prepared as by U-ViT",
    "repa": "images prepared as by REPA",
}
WEIGHTS = {"ema": "averaged weights (EMA)", "raw": "raw weights"}

Terms = list[tuple[str, str]]
"""Terms, and what they are."""


def settings_in_words(experiment: ExperimentConfig) -> Terms:
    """Data, backbone and recipe of an experiment."""
    seeds = experiment.seeds
    times = "once" if len(seeds) == 1 else f"{len(seeds)} times"
    return [
        ("Data", data_in_words(experiment.data)),
        ("Latents", latents_in_words(experiment.data)),
        ("Backbone", backbone_in_words(experiment)),
        ("Training", training_in_words(experiment.training)),
        ("Seeds", f"{', '.join(map(str, seeds))}: every run is trained {times}"),
    ]


def data_in_words(data: DatasetConfig) -> str:
    """Where images come from."""
    known = data.images or isinstance(data.source, DigitsSource | ScenesSource)
    count, size = f"{count_images(data):,} images, " if known else "", data.image_size
    return f"{data.name}: {SOURCES[data.source.kind]}, {count}{size} × {size} pixels"


def latents_in_words(data: DatasetConfig) -> str:
    """The autoencoder and the size of its latents."""
    channels, height, width = data.latent_shape
    autoencoder = data.autoencoder
    maker = (
        "a small autoencoder trained on the data"
        if isinstance(autoencoder, TrainedAutoencoderConfig)
        else autoencoder.path
    )
    flips = "; mirrored images too" if data.latents.flip else ""
    return f"{channels} × {height} × {width}, by {maker}; stored in {data.latents.dtype}{flips}"


def backbone_in_words(experiment: ExperimentConfig) -> str:
    """Size of the network that every run shares, if it does not say otherwise."""
    model = experiment.model
    name = model.preset or {"sit": "SiT", "mmdit": "MMDiT"}.get(model.kind, model.kind)
    tokens = tokens_of(model, experiment.data.latent_shape[1])
    return (
        f"{name}: {model.depth} blocks, hidden size {model.hidden_size}, {model.num_heads} heads,"
        f" patch size {model.patch_size} ({tokens} tokens){', qk-norm' if model.qk_norm else ''}"
    )


def training_in_words(training: TrainingConfig) -> str:
    """The recipe."""
    decay = f", weight decay {training.weight_decay:g}" if training.weight_decay else ""
    clipped = f", gradients clipped at {training.clip_norm:g}" if training.clip_norm else ""
    return (
        f"{training.checkpoints[-1]:,} steps of {training.batch_size} images; AdamW, learning rate"
        f" {training.learning_rate:g}{decay}{clipped}; EMA decay {training.ema_decay:g};"
        f" label dropout {training.label_dropout:g}; {training.interpolant} interpolant,"
        f" {training.time_sampling} t; precision {training.precision}"
    )


def sampler_in_words(sampler: SamplerConfig) -> str:
    """How a set of samples is made."""
    steps = f"{sampler.num_steps} steps"
    if sampler.sampler == "dopri5":
        steps = f"adaptive steps (rtol {sampler.rtol:g}, atol {sampler.atol:g})"
    guidance = sampler.guidance
    guided = "no guidance"
    if guidance.scale != 1:
        guided = f"guidance {guidance.scale:g} for t in {guidance.low:g} to {guidance.high:g}"
        if guidance.channels:
            guided += f", first {guidance.channels} channels"
    if (internal := sampler.internal_guidance).scale != 1:
        guided += f", internal guidance {internal.scale:g}"
        guided += f" for t in {internal.low:g} to {internal.high:g}"
    return (
        f"{SAMPLERS[sampler.sampler]}, {steps}, {guided}, {sampler.num_samples:,} samples,"
        f" {sampler.labels} classes, {WEIGHTS[sampler.weights]}"
    )


def run_in_words(experiment: ExperimentConfig, name: str) -> dict[str, Any]:
    """A run: its name, its methods, its settings, its size in operations."""
    run = experiment.runs[name]
    last, counted = run.training.checkpoints[-1], not is_own_class(run.model)
    return {
        "name": name,
        "label": run.label or name,
        "grid": run.grid,
        "imported": run.imported is not None,
        "methods": [term_in_words(experiment, term) for term in run.alignments.values()],
        "changes": differences(experiment, run),
        "steps": list(run.training.checkpoints),
        "batch_size": run.training.batch_size,
        "forward_flop": backbone_flop(run.model, experiment.data) if counted else None,
        "training_flop": sum(segment_work(experiment, run, 0, last).values())
        if counted and not run.imported
        else None,
    }


def term_in_words(experiment: ExperimentConfig, term: AlignmentConfig) -> dict[str, Any]:
    """A method: its name, its summary and its settings."""
    values = term.model_dump(mode="json", exclude={"method", "teacher"}, exclude_none=True)
    settings = [f"{key.replace('_', ' ')} {_value(value)}" for key, value in values.items()]
    if teacher := term.frozen_teacher:
        choice = teacher.choice
        label = experiment.runs[choice.run].label or choice.run
        settings.insert(0, f"teacher “{label}” at {choice.step:,} steps, {WEIGHTS[choice.weights]}")
    summary = (type(term).__doc__ or "").strip().splitlines() or [""]
    return {"name": term.method, "summary": summary[0], "settings": settings}


def differences(experiment: ExperimentConfig, run: RunConfig) -> list[str]:
    """Keys of a run's backbone and recipe that are not the experiment's."""
    return [
        f"{part}.{key} {_value(value)}"
        for part in ("model", "training")
        for key, value in getattr(run, part).model_dump(mode="json").items()
        if value != getattr(experiment, part).model_dump(mode="json").get(key)
    ]


def _value(value: Any) -> str:
    """A setting's value, as one writes it."""
    if isinstance(value, Mapping):
        if value.keys() == {"low", "high"}:
            return f"{value['low']:g} to {value['high']:g}"
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
