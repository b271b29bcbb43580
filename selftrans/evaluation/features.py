"""Features of a trained run: of its blocks, and of what its signals follow. ``python -m selftrans.evaluation.features --help``.

Real images are noised to given times: the mean of their posterior, and noise that is a function of the image's place in the
data set, so that every run sees the same. Probed features are means over tokens and are computed without a label, since one
that saw it would give it away; what signals follow is also computed as in training, with the label.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from selftrans.config import Analysis, Experiment, load_experiment
from selftrans.data.sources import held_out
from selftrans.data.store import LatentStore
from selftrans.flow.interpolant import INTERPOLANTS
from selftrans.guidance.base import Batch, Guidance
from selftrans.guidance.self_transcendence import SelfTranscendenceGuidance
from selftrans.guidance.vae_alignment import VaeAlignmentGuidance
from selftrans.models.sit import SiT
from selftrans.models.weights import load_backbone
from selftrans.runtime.devices import add_gpu_argument, claim_device
from selftrans.runtime.errors import UserError, run_main
from selftrans.runtime.files import atomic_path
from selftrans.runtime.logs import Progress, set_up_logging
from selftrans.runtime.random import Stream, generator
from selftrans.training.batches import on_device
from selftrans.training.inputs import Inputs
from selftrans.training.trainer import build_model

Arrays = dict[str, NDArray[np.generic]]
SEED = 0  # of images and noise: the same for every run, whatever its seed


def chosen_images(analysis: Analysis, count: int) -> NDArray[np.int64]:
    """Places of the probed images: all, or as many as asked for, drawn at random."""
    order = generator(SEED, Stream.ANALYSIS).permutation(count)
    return np.sort(order[: analysis.num_images])


def shown_images(analysis: Analysis, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the images in colour maps: the first one of as many classes, evenly spread."""
    classes = np.unique(labels)
    spread = np.linspace(0, len(classes) - 1, min(analysis.shown_images, len(classes))).round().astype(int)
    return np.array([np.flatnonzero(labels == label)[0] for label in classes[spread]])


class NoisedImages:
    """Real images at given times, as the training signals see them.

    Args:
        store: the latents.
        inputs: what the run's signals follow.
        path: name of the interpolant.
        device: where they are put.
    """

    def __init__(self, store: LatentStore, inputs: Inputs, path: str, device: torch.device) -> None:
        self.store, self.inputs, self.path, self.device = store, inputs, INTERPOLANTS[path], device

    def batch(self, indices_B: NDArray[np.int64], t: float) -> Batch:
        """The images at these places, all at time ``t``, with their true labels."""
        shape = self.store.manifest.latent_shape
        draw = [generator(SEED, Stream.ANALYSIS, 1, int(i)).standard_normal(shape, dtype=np.float32) for i in indices_B]
        z = on_device(self.store.latents(indices_B, np.zeros((len(indices_B), *shape), np.float32)), self.device)
        eps = on_device(np.stack(draw), self.device)
        times = np.full(len(indices_B), t, np.float32)
        t_B = on_device(times, self.device)
        t_B111 = t_B.reshape(-1, 1, 1, 1)
        labels = on_device(self.store.labels[indices_B], self.device)
        images = self.inputs.images
        return Batch(
            step=0,
            path=self.path,
            z_BCHW=z,
            eps_BCHW=eps,
            x_BCHW=self.path.noised(z, eps, t_B111),
            velocity_BCHW=self.path.velocity(z, eps, t_B111),
            t_B=t_B,
            times=times,
            labels_B=labels,
            dropped_labels_B=labels,
            uniform_B=torch.full_like(t_B, 0.5),  # the mean of what a training draws
            encoded={one.name: on_device(one.rows[indices_B], self.device) for one in self.inputs.features},
            images_BHWC=None if images is None else on_device(images.read(indices_B), self.device),
        )


def without_label(batch: Batch, null_class: int) -> Batch:
    """The same batch with the null class for every label."""
    null = torch.full_like(batch.labels_B, null_class)
    return replace(batch, labels_B=null, dropped_labels_B=null)


def guiding_variants(signal: Guidance, analysis: Analysis) -> Iterator[tuple[str, Guidance]]:
    """A signal's guiding features by name: of stage 2 f_c and f_g at each scale, of stage 1 the clean latents."""
    match signal:
        case SelfTranscendenceGuidance(settings=settings):
            for scale in (1.0, *(scale for scale in analysis.guidance_scales if scale != 1)):
                signal.settings = settings.model_copy(update={"guidance_scale": scale})
                yield "f_c" if scale == 1 else f"f_g, w = {scale:g}", signal
        case VaeAlignmentGuidance(settings=settings):
            signal.settings = settings.model_copy(update={"target": "latent"})
            yield "VAE latents", signal
        case _:
            yield signal.followed, signal


@torch.inference_mode()
def features_of_run(
    experiment: Experiment,
    run: str,
    seed: int,
    checkpoints: list[Path],
    store: LatentStore,
    inputs: Inputs,
    batch_size: int,
    device: torch.device,
) -> Arrays:
    """All arrays of a run's feature file.

    ``pooled`` (times, blocks, N, D): token means of every block of the last checkpoint, without a label; ``maps`` (steps, shown
    blocks, shown images, T, D): tokens with the true label; for each signal k ``guiding_maps_k`` (shown images, T, D'),
    ``guiding_pooled_k`` and ``guiding_blind_k`` (times, N, D'), with the label and without; ``noisy`` (shown images, H W, C):
    the noised latents. In half precision.
    """
    analysis, settings = experiment.analysis, experiment.runs[run]
    if analysis is None:
        raise UserError(f"experiment {experiment.name!r}: analysis: is not given")
    images, shown = chosen_images(analysis, len(store)), shown_images(analysis, store.labels)
    noised = NoisedImages(store, inputs, settings.training.path, device)
    blocks, shown_blocks = range(1, settings.model.depth + 1), analysis.blocks_shown(settings.model)
    maps, steps = [], []
    backbone: SiT | None = None
    batch = noised.batch(shown, analysis.shown_time)
    for checkpoint in checkpoints:
        backbone, facts = load_backbone(checkpoint, device)
        features = backbone.features(batch.x_BCHW, batch.t_B, batch.labels_B, shown_blocks)
        maps.append(torch.stack([features[block] for block in shown_blocks]))
        steps.append(facts["step"])
    assert backbone is not None
    model = build_model(experiment, run, store, seed, inputs, device)
    model.backbone.load_state_dict(backbone.state_dict())
    model.eval()
    model.guidance.follow(model.backbone)

    def guiding(signal: Guidance, batch: Batch) -> torch.Tensor:
        depths = signal.depths or (1,)
        own = backbone.features(batch.x_BCHW, batch.t_B, batch.dropped_labels_B, depths)
        return signal.guiding_features(batch, own)

    names: list[str] = []
    arrays: Arrays = {}
    for position, signal in enumerate(model.guidance.signals):
        for name, variant in guiding_variants(signal, analysis):
            number = len(names)
            names.append(name if len(model.guidance.signals) == 1 else f"{position + 1}: {name}")
            arrays[f"guiding_maps_{number}"] = halved(guiding(variant, batch))
            with_label, blind = [], []
            for t in analysis.times:
                for start in range(0, len(images), batch_size):
                    seen = noised.batch(images[start : start + batch_size], t)
                    with_label.append(halved(guiding(variant, seen).mean(dim=1)))
                    blind.append(halved(guiding(variant, without_label(seen, backbone.null_class)).mean(dim=1)))
            for kind, found in (("pooled", with_label), ("blind", blind)):
                arrays[f"guiding_{kind}_{number}"] = np.concatenate(found).reshape(len(analysis.times), len(images), -1)
    pooled = []
    with Progress(len(analysis.times) * len(images), f"{run} seed {seed}", "image") as bar:
        for t in analysis.times:
            parts = []
            for start in range(0, len(images), batch_size):
                seen = without_label(noised.batch(images[start : start + batch_size], t), backbone.null_class)
                tokens = backbone.features(seen.x_BCHW, seen.t_B, seen.labels_B, blocks)
                parts.append(halved(torch.stack([tokens[block].mean(dim=1) for block in blocks])))
                bar.update(len(seen.t_B))
            pooled.append(np.concatenate(parts, axis=1))
    return {
        **arrays,
        "pooled": np.stack(pooled),
        "maps": halved(torch.stack(maps)),
        "noisy": halved(batch.x_BCHW.flatten(2).transpose(1, 2)),
        "guiding_names": np.array(names, dtype=np.str_),
        "steps": np.array(steps),
        "times": np.array(analysis.times),
        "shown_blocks": np.array(shown_blocks),
        "images": images,
        "shown": shown,
        "labels": store.labels[images],
        "held_out": held_out(len(store))[images],
    }


def halved(tensor: torch.Tensor) -> NDArray[np.generic]:
    """On the host in half precision."""
    return np.asarray(tensor.half().cpu().numpy())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.evaluation.features", description="Features of a run's blocks and of what it follows."
    )
    parser.add_argument("experiment", help="experiment file (YAML)")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--seed", type=int, required=True, help="seed of the run")
    parser.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="weight files, by ascending step")
    parser.add_argument("--latents", type=Path, required=True, help="manifest of the latent store")
    for option in ("--teacher", "--features", "--encoder"):
        parser.add_argument(option, type=Path, action="append", default=[], help="as in a training")
    parser.add_argument("--batch-size", type=int, default=256, help="images at a time (default: 256)")
    parser.add_argument("--output", type=Path, required=True, help="the features (.npz)")
    add_gpu_argument(parser)
    arguments = parser.parse_args()
    set_up_logging()
    experiment, run = load_experiment(arguments.experiment), arguments.run
    device, store = claim_device(arguments.gpus), LatentStore(arguments.latents)
    inputs = Inputs.open(experiment, run, store, arguments.teacher, arguments.features, arguments.encoder, device)
    arrays = features_of_run(
        experiment, run, arguments.seed, arguments.checkpoints, store, inputs, arguments.batch_size, device
    )
    with atomic_path(arguments.output) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)


if __name__ == "__main__":
    run_main(main)
