"""Features of a trained run: of its blocks, and of what its alignment losses follow.

Real images are noised to the requested times: the mean of their posterior, and noise that is a
function of the image's index in the data set, so that every run sees the same. Probed features are
means over tokens and are computed without condition, since it would give the label away; guiding
features are also computed as in training, with the condition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selftrans import __version__
from selftrans.alignment.base import AlignmentLosses, Batch
from selftrans.config import (
    AnalysisConfig,
    ExperimentConfig,
    InterpolantName,
    run_definition,
)
from selftrans.data.sources import held_out
from selftrans.data.store import LatentStore
from selftrans.evaluation.run_features import Floats, Named, RunFeatures
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.models.backbone import Backbone
from selftrans.models.weights import load_backbone
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import file_identity
from selftrans.runtime.lock import DirectoryLock
from selftrans.runtime.logs import LOG, Progress
from selftrans.runtime.random import Stream, generator
from selftrans.training.batches import HostBatch
from selftrans.training.input_paths import InputPaths
from selftrans.training.inputs import Inputs
from selftrans.training.model import build_model

Tokens = dict[str, torch.Tensor]
"""Guiding features (B, T, D') by name."""
SEED = 0  # of images and noise: the same for every run
TYPICAL_IMAGES = 256
"""Their mean token at each position is subtracted from what is shown: else positions dominate."""


def chosen_images(analysis: AnalysisConfig, count: int) -> NDArray[np.int64]:
    """Indices of the probed images: all, or as many as requested, drawn at random."""
    order = generator(SEED, Stream.ANALYSIS).permutation(count)
    return np.sort(order[: analysis.num_images])


def shown_images(analysis: AnalysisConfig, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the images in colour maps: the first two of evenly spread classes."""
    classes = np.unique(labels)
    spread = (
        np.linspace(0, len(classes) - 1, min(analysis.shown_classes, len(classes)))
        .round()
        .astype(int)
    )
    pairs = [np.resize(np.flatnonzero(labels == label)[:2], 2) for label in classes[spread]]
    return np.concatenate(pairs)


class NoisedImages:
    """Real images at given times, as the training losses see them.

    Args:
        store: the latents.
        inputs: teachers, encoders and images of the run's alignment losses.
        interpolant: the run's.
        device: of the batches.
    """

    def __init__(
        self, store: LatentStore, inputs: Inputs, interpolant: InterpolantName, device: torch.device
    ) -> None:
        self.store, self.inputs, self.device = store, inputs, device
        self.interpolant, self.conditions = INTERPOLANTS[interpolant], inputs.conditions(store)

    def batch(self, indices_B: NDArray[np.int64], t: float) -> Batch:
        """The images at these indices, all at time ``t``, with their true conditions."""
        shape, images = self.store.manifest.latent_shape, self.inputs.images
        condition = self.conditions.values(self.conditions.of_images(indices_B))
        noise = [
            generator(SEED, Stream.ANALYSIS, 1, int(i)).standard_normal(shape, np.float32)
            for i in indices_B
        ]
        batch = HostBatch(
            step=0,
            interpolant=self.interpolant,
            z=self.store.latents(indices_B, np.zeros((len(indices_B), *shape), np.float32)),
            eps=np.stack(noise),
            times=np.full(len(indices_B), t, np.float32),
            condition=condition,
            dropped_condition=condition,
            uniform=np.full(len(indices_B), 0.5, np.float32),  # the mean of what a training draws
            encoder_features={
                name: features.rows.of(indices_B) for name, features in self.inputs.features.items()
            },
            images=None if images is None else images.read(indices_B),
        )
        return batch.to(self.device)


def named_by_term(alignment: AlignmentLosses, name: str, features: Mapping[str, Tensor]) -> Tokens:
    """The features with the name of their term in front, where a run has several."""
    if len(alignment.terms) == 1:
        return dict(features)
    return {f"{name}: {feature}": tokens for feature, tokens in features.items()}


def subtract_positional_mean(tokens: torch.Tensor, shown: int) -> torch.Tensor:
    """Tokens (..., I, T, D) of the first ``shown`` images, less the others' mean by position."""
    tokens = tokens.float()
    return tokens[..., :shown, :, :] - tokens[..., shown:, :, :].mean(dim=-3, keepdim=True)


def maps_over_training(
    run: str,
    checkpoints: list[Path],
    batch: Batch,
    shown: int,
    blocks: tuple[int, ...],
    device: torch.device,
) -> tuple[torch.Tensor, list[int], Backbone, str]:
    """Maps of the shown images after blocks of every checkpoint, (S, blocks, I, T, D).

    Also the checkpoints' steps, and the last one's backbone and fingerprint.
    """
    maps, steps = [], []
    for checkpoint in checkpoints:
        backbone, metadata = load_backbone(checkpoint, device)
        if metadata.run != run:
            raise UserError(f"{checkpoint}: is of run {metadata.run!r}, expected is {run!r}")
        features = backbone.features(batch.x_BCHW, batch.t_B, batch.condition_B, blocks)
        tokens = torch.stack([features[block] for block in blocks])
        maps.append(subtract_positional_mean(tokens, shown))
        steps.append(metadata.step)
    return torch.stack(maps), steps, backbone, metadata.fingerprint


class PooledFeatures(NamedTuple):
    """Token means of the probed images, by time."""

    pooled: Floats
    """Of every block, (times, blocks, N, D)."""
    guiding: Named
    unconditional: Named
    """Of guiding features, (times, N, D') by name."""


def pooled_features(
    noised: NoisedImages,
    images: NDArray[np.int64],
    backbone: Backbone,
    alignment: AlignmentLosses,
    analysis: AnalysisConfig,
    batch_size: int,
    label: str,
) -> PooledFeatures:
    """Token means of blocks and guiding features on the probed images at every time."""
    blocks = range(1, backbone.shape.depth + 1)
    pooled: list[Floats] = []
    guiding: dict[str, list[Floats]] = {}
    unconditional: dict[str, list[Floats]] = {}
    with Progress(len(analysis.times) * len(images), label, "image") as bar:
        for t in analysis.times:
            batches = []
            for start in range(0, len(images), batch_size):
                batch = noised.batch(images[start : start + batch_size], t)
                null = batch.unconditional(backbone).condition_B
                means = backbone.features(batch.x_BCHW, batch.t_B, null, blocks, pool=True)
                batches.append(on_host(torch.stack(list(means.values()))))
                for term_name, term in alignment.items():
                    features = term.method.analysed_features(
                        term, backbone, batch, analysis.guidance_scales
                    )
                    for means_by_name, tokens_by_name in (
                        (guiding, features.conditional),
                        (unconditional, features.unconditional),
                    ):
                        for name, tokens in named_by_term(
                            alignment, term_name, tokens_by_name
                        ).items():
                            means_by_name.setdefault(name, []).append(on_host(tokens.mean(dim=1)))
                bar.update(len(batch.t_B))
            pooled.append(np.concatenate(batches, axis=1))

    def by_time(means_by_name: dict[str, list[Floats]]) -> Named:
        shape = (len(analysis.times), len(images), -1)
        return {name: np.concatenate(m).reshape(shape) for name, m in means_by_name.items()}

    return PooledFeatures(np.stack(pooled), by_time(guiding), by_time(unconditional))


@torch.inference_mode()
def features_of_run(
    experiment: ExperimentConfig,
    run: str,
    seed: int,
    checkpoints: list[Path],
    store: LatentStore,
    inputs: Inputs,
    batch_size: int,
    device: torch.device,
) -> RunFeatures:
    """The features of a run.

    Args:
        experiment, run, seed: which training.
        checkpoints: its weight files, by ascending step.
        store: the latents.
        inputs: teachers, encoders and images of the run's alignment losses.
        batch_size: images at a time.
        device: where to compute.

    Raises:
        UserError: the experiment has no analysis, or it has no held-out image, or only those.
    """
    analysis, settings = experiment.analysis, experiment.runs[run]
    if analysis is None:
        raise UserError(f"experiment {experiment.name!r}: analysis: is not set")
    images, shown = chosen_images(analysis, len(store)), shown_images(analysis, store.labels)
    if not 0 < (tests := int(held_out(len(store))[images].sum())) < len(images):
        raise UserError(
            f"experiment {experiment.name!r}: analysis.num_images:"
            f" {tests} of {len(images)} are held out"
        )
    count = min(TYPICAL_IMAGES, len(images))
    typical = images[np.linspace(0, len(images) - 1, count).astype(int)]
    noised = NoisedImages(store, inputs, settings.training.interpolant, device)
    batch = noised.batch(np.concatenate([shown, typical]), analysis.shown_time)
    shown_blocks = analysis.blocks_shown(settings.model)
    maps, steps, backbone, fingerprint = maps_over_training(
        run, checkpoints, batch, len(shown), shown_blocks, device
    )
    alignment = build_model(experiment, run, store, seed, inputs, device).alignment
    alignment.set_ema_model(backbone)
    shown_guiding: Named = {}
    for term_name, term in alignment.items():
        features = term.method.analysed_features(term, backbone, batch, analysis.guidance_scales)
        tokens_by_name = features.conditional or features.unconditional
        for name, tokens in named_by_term(alignment, term_name, tokens_by_name).items():
            shown_guiding[name] = on_host(subtract_positional_mean(tokens, len(shown)))
    pooled = pooled_features(
        noised, images, backbone, alignment, analysis, batch_size, f"{run} seed {seed}"
    )
    return RunFeatures(
        images=images,
        labels=store.labels[images],
        held_out=held_out(len(store))[images],
        times=np.array(analysis.times),
        pooled=pooled.pooled,
        guiding=pooled.guiding,
        unconditional=pooled.unconditional,
        shown=shown,
        steps=np.array(steps),
        shown_blocks=np.array(shown_blocks),
        maps=on_host(maps),
        noisy=on_host(batch.x_BCHW[: len(shown)].flatten(2).transpose(1, 2)),
        shown_guiding=shown_guiding,
        run=run,
        seed=seed,
        fingerprint=fingerprint,
    )


def on_host(tensor: torch.Tensor) -> Floats:
    """On the host in float32: guided features may be beyond half precision."""
    return np.asarray(tensor.float().cpu().numpy())


def write_features(
    experiment: ExperimentConfig,
    run: str,
    seed: int,
    checkpoints: list[Path],
    latents: Path,
    input_paths: InputPaths,
    output: Path,
    batch_size: int,
    device: torch.device,
) -> None:
    """Write the features of a run, or take those that another process has just computed.

    Args:
        experiment, run, seed: which training.
        checkpoints: its weight files, by ascending step.
        latents: manifest of the latent store.
        input_paths: what the run's alignment losses follow.
        output: the features (``.npz``).
        batch_size: images at a time.
        device: where to compute.

    Raises:
        UserError: a file or a setting cannot be used.
    """
    store = LatentStore(latents)
    inputs = Inputs.open(experiment, run, seed, store, input_paths, device)
    source = json.dumps(
        [
            run_definition(experiment, run, seed),
            experiment.analysis and experiment.analysis.model_dump(mode="json"),
            [*map(file_identity, checkpoints)],
            store.manifest.digest,
            inputs.digests,
            __version__,
        ]
    )
    with DirectoryLock(output.parent, file=output.name, wait=True) as owner:
        with suppress(UserError):
            if RunFeatures.load(output).source == source:
                LOG.info("taken as they are: another process has computed these same features")
                return
        features = features_of_run(
            experiment, run, seed, checkpoints, store, inputs, batch_size, device
        )
        owner.check()
        replace(features, source=source).save(output)
