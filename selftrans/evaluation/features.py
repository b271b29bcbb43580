"""Features of a trained run: of its blocks, and of what its losses follow. ``python -m selftrans.evaluation.features --help``.

Real images are noised to given times: the mean of their posterior, and noise that is a function of the image's place in the
data set, so that every run sees the same. Probed features are means over tokens and are computed without a label, since one
that saw it would give it away; what losses follow is also computed as in training, with the label.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.alignment.base import AlignmentLoss, Batch
from selftrans.alignment.self_transcendence import SelfTranscendenceLoss
from selftrans.alignment.vae_alignment import VaeAlignmentLoss
from selftrans.config import AnalysisConfig, ExperimentConfig, load_experiment
from selftrans.data.sources import held_out
from selftrans.data.store import LatentStore
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.models.sit import SiT, patchify
from selftrans.models.weights import load_backbone
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.files import atomic_path
from selftrans.runtime.logs import Progress, set_up_logging
from selftrans.runtime.random import Stream, generator
from selftrans.training.batches import HostBatch
from selftrans.training.inputs import Inputs
from selftrans.training.model import build_model

Arrays = dict[str, NDArray[np.generic]]
SEED = 0  # of images and noise: the same for every run, whatever its seed
TYPICAL = 256
"""Images whose mean token at each place is taken away from what is shown: the code of the place outshines everything else."""


def chosen_images(analysis: AnalysisConfig, count: int) -> NDArray[np.int64]:
    """Places of the probed images: all, or as many as asked for, drawn at random."""
    order = generator(SEED, Stream.ANALYSIS).permutation(count)
    return np.sort(order[: analysis.num_images])


def shown_images(analysis: AnalysisConfig, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the images in colour maps: the first two of as many classes, evenly spread, class by class."""
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
        inputs: what the run's losses follow.
        interpolant: its name.
        device: where they are put.
    """

    def __init__(
        self, store: LatentStore, inputs: Inputs, interpolant: str, device: torch.device
    ) -> None:
        self.store, self.inputs, self.interpolant, self.device = (
            store,
            inputs,
            INTERPOLANTS[interpolant],
            device,
        )

    def batch(self, indices_B: NDArray[np.int64], t: float) -> Batch:
        """The images at these places, all at time ``t``, with their true labels."""
        shape, images, labels = (
            self.store.manifest.latent_shape,
            self.inputs.images,
            self.store.labels[indices_B],
        )
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
            labels=labels,
            dropped_labels=labels,
            uniform=np.full(len(indices_B), 0.5, np.float32),  # the mean of what a training draws
            encoder_features={
                features.name: features.rows.of(indices_B) for features in self.inputs.features
            },
            images=None if images is None else images.read(indices_B),
        )
        return batch.to(self.device)


def without_label(batch: Batch, null_class: int) -> Batch:
    """The same batch with the null class for every label."""
    null = torch.full_like(batch.labels_B, null_class)
    return replace(batch, labels_B=null, dropped_labels_B=null)


def alignment_targets(
    loss: AlignmentLoss, model: SiT, batch: Batch, scales: tuple[float, ...]
) -> dict[str, torch.Tensor]:
    """What a loss follows, (B, T, D') by name: of stage 1 the clean latents, of stage 2 f_c and f_g at every scale."""
    match loss:
        case VaeAlignmentLoss():
            return {"VAE latents": patchify(batch.z_BCHW, model.shape)}
        case SelfTranscendenceLoss():
            f_u, f_c = loss.teacher_features(batch.x_BCHW, batch.t_B, batch.labels_B)
            return {"f_c": f_c} | {
                f"f_g, w = {scale:g}": torch.lerp(f_u, f_c, scale) for scale in scales
            }
    own = model.features(batch.x_BCHW, batch.t_B, batch.dropped_labels_B, loss.depths or (1,))
    return {loss.target_name: loss.guiding_features(batch, own)}


def unconditional_targets(loss: AlignmentLoss, model: SiT, batch: Batch) -> dict[str, torch.Tensor]:
    """The same where nothing is told of the class: of stage 2, f_u is all that is left."""
    batch = without_label(batch, model.null_class)
    if isinstance(loss, SelfTranscendenceLoss):
        return {"f_u": loss.teacher_features(batch.x_BCHW, batch.t_B, batch.labels_B)[0]}
    return alignment_targets(loss, model, batch, ())


def subtract_positional_mean(tokens: torch.Tensor, shown: int) -> torch.Tensor:
    """The first ``shown`` images' tokens (..., I, T, D), less the other images' mean at their place."""
    own, others = tokens[..., :shown, :, :].float(), tokens[..., shown:, :, :].float()
    return own - others.mean(dim=-3, keepdim=True)


def maps_over_training(
    checkpoints: list[Path], batch: Batch, shown: int, blocks: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, list[int], SiT]:
    """What is peculiar to the shown images after blocks of every checkpoint, (steps, blocks, I, T, D); steps; last model."""
    maps, steps = [], []
    for checkpoint in checkpoints:
        backbone, metadata = load_backbone(checkpoint, device)
        features = backbone.features(batch.x_BCHW, batch.t_B, batch.labels_B, blocks)
        maps.append(
            subtract_positional_mean(torch.stack([features[block] for block in blocks]), shown)
        )
        steps.append(metadata.step)
    return torch.stack(maps), steps, backbone


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
) -> Arrays:
    """All arrays of a run's feature file.

    - ``pooled`` (times, blocks, N, D): token means of every block of the last checkpoint, without a label.
    - ``maps`` (steps, shown blocks, I, T, D): tokens of the shown images with the true label, less what images have in common
      at their place; ``noisy`` (I, H W, C): the latents that they are of.
    - ``shown_k`` (I, T, D'): what losses follow, in the same way, named by ``shown_names``.
    - ``guiding_pooled_k`` (times, N, D'): token means of what they follow with the label, where they see it, named by
      ``guiding_names``; ``blind_pooled_k``: without it, named by ``blind_names``.
    """
    analysis, settings = experiment.analysis, experiment.runs[run]
    if analysis is None:
        raise UserError(f"experiment {experiment.name!r}: analysis: is not given")
    images, shown = chosen_images(analysis, len(store)), shown_images(analysis, store.labels)
    if not 0 < (tests := int(held_out(len(store))[images].sum())) < len(images):
        raise UserError(
            f"experiment {experiment.name!r}: analysis.num_images: {tests} of {len(images)} are held out"
        )
    typical = images[np.linspace(0, len(images) - 1, min(TYPICAL, len(images))).astype(int)]
    noised = NoisedImages(store, inputs, settings.training.interpolant, device)
    batch = noised.batch(np.concatenate([shown, typical]), analysis.shown_time)
    shown_blocks = analysis.blocks_shown(settings.model)
    maps, steps, backbone = maps_over_training(checkpoints, batch, len(shown), shown_blocks, device)
    alignment = build_model(experiment, run, store, seed, inputs, device).alignment
    alignment.set_ema_model(backbone)
    losses = alignment.losses

    def named(loss: AlignmentLoss, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of several losses, with their places."""
        if len(losses) == 1:
            return features
        return {f"{losses.index(loss) + 1}: {name}": tokens for name, tokens in features.items()}

    shown_features: dict[str, torch.Tensor] = {}
    for loss in losses:
        shown_features |= named(
            loss, alignment_targets(loss, backbone, batch, analysis.guidance_scales)
        )
    blocks, pooled = range(1, settings.model.depth + 1), []
    means: dict[str, dict[str, list[NDArray[np.generic]]]] = {"guiding": {}, "blind": {}}
    with Progress(len(analysis.times) * len(images), f"{run} seed {seed}", "image") as bar:
        for t in analysis.times:
            parts = []
            for start in range(0, len(images), batch_size):
                seen = noised.batch(images[start : start + batch_size], t)
                blind = without_label(seen, backbone.null_class)
                tokens = backbone.features(
                    blind.x_BCHW, blind.t_B, blind.labels_B, blocks, pool=True
                )
                parts.append(on_host(torch.stack(list(tokens.values()))))
                for loss in losses:
                    target_name = {"blind": unconditional_targets(loss, backbone, seen)}
                    if loss.label_conditioned:
                        target_name["guiding"] = alignment_targets(
                            loss, backbone, seen, analysis.guidance_scales
                        )
                    for kind, features in target_name.items():
                        for name, one in named(loss, features).items():
                            means[kind].setdefault(name, []).append(on_host(one.mean(dim=1)))
                bar.update(len(seen.t_B))
            pooled.append(np.concatenate(parts, axis=1))
    arrays: Arrays = {
        f"shown_{k}": on_host(subtract_positional_mean(tokens, len(shown)))
        for k, tokens in enumerate(shown_features.values())
    }
    for kind, of_kind in means.items():
        arrays[f"{kind}_names"] = np.array(list(of_kind), dtype=np.str_)
        for k, parts in enumerate(of_kind.values()):
            arrays[f"{kind}_pooled_{k}"] = np.concatenate(parts).reshape(
                len(analysis.times), len(images), -1
            )
    return {
        **arrays,
        "pooled": np.stack(pooled),
        "maps": on_host(maps),
        "noisy": on_host(batch.x_BCHW[: len(shown)].flatten(2).transpose(1, 2)),
        "shown_names": np.array(list(shown_features), dtype=np.str_),
        "steps": np.array(steps),
        "times": np.array(analysis.times),
        "shown_blocks": np.array(shown_blocks),
        "images": images,
        "shown": shown,
        "labels": store.labels[images],
        "held_out": held_out(len(store))[images],
    }


def on_host(tensor: torch.Tensor) -> NDArray[np.generic]:
    """On the host in float32: guided features may be beyond half precision."""
    return np.asarray(tensor.float().cpu().numpy())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.evaluation.features",
        description="Features of a run's blocks and of what it follows.",
    )
    parser.add_argument("experiment", help="experiment file (YAML)")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--seed", type=int, required=True, help="seed of the run")
    parser.add_argument(
        "--checkpoints", type=Path, nargs="+", required=True, help="weight files, by ascending step"
    )
    parser.add_argument("--latents", type=Path, required=True, help="manifest of the latent store")
    for option in ("--teacher", "--features", "--encoder"):
        parser.add_argument(option, type=Path, action="append", default=[], help="as in a training")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="images at a time (default: 256)"
    )
    parser.add_argument("--output", type=Path, required=True, help="the features (.npz)")
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    experiment, run = load_experiment(arguments.experiment), arguments.run
    device, store = claim_device(arguments.gpus), LatentStore(arguments.latents)
    inputs = Inputs.open(
        experiment, run, store, arguments.teacher, arguments.features, arguments.encoder, device
    )
    arrays = features_of_run(
        experiment,
        run,
        arguments.seed,
        arguments.checkpoints,
        store,
        inputs,
        arguments.batch_size,
        device,
    )
    with atomic_path(arguments.output) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


if __name__ == "__main__":
    run_main(main)
