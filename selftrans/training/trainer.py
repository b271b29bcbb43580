"""The training loop: one for every signal, on one process or many, stopped and resumed without a trace."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from selftrans import __version__
from selftrans.alignment.base import AlignmentLosses, Batch
from selftrans.alignment.registry import build_alignment_losses
from selftrans.config import ExperimentConfig, TrainingConfig, Weights
from selftrans.data.store import LatentStore, Manifest
from selftrans.models.sit import SiT, SiTShape
from selftrans.runtime.errors import Interrupted
from selftrans.runtime.files import remove_stale_temp_files, sha256_of, write_json, write_text
from selftrans.runtime.lock import DirectoryLock
from selftrans.runtime.logs import Progress
from selftrans.runtime.random import Stream, torch_seed
from selftrans.runtime.signals import StopRequest
from selftrans.runtime.tensors import FORMAT, save_tensors
from selftrans.training.batches import BatchSource, local_batch_slices
from selftrans.training.control import Control
from selftrans.training.definition import (
    DEFINITION_FILE,
    check_definition,
    fingerprint,
    run_definition,
)
from selftrans.training.ema import MovingAverage
from selftrans.training.events import EventFiles
from selftrans.training.gradients import alignment_gradient, gradient_norms
from selftrans.training.inputs import Inputs
from selftrans.training.precision import MixedPrecision, resolve_precision
from selftrans.training.progress import TrainingProgress
from selftrans.training.state import StateDirectory

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One job: train a run up to one of its checkpoints."""

    experiment: ExperimentConfig
    run: str
    seed: int
    until: int
    """The checkpoint's step."""
    latents: Path
    """Manifest of the latent store."""
    teachers: tuple[Path, ...] = ()
    """A frozen teacher for each signal that follows one, in order."""
    encoded: tuple[Path, ...] = ()
    """Manifests of feature stores, for the signals that read one."""
    encoders: tuple[Path, ...] = ()
    """Encoders' files, for the signals that run one."""
    directory: Path
    """The run's directory: definition, state, checkpoints, event files."""
    after: int = 0
    """The checkpoint that the workflow scheduled this one behind; only recorded."""

    @property
    def training(self) -> TrainingConfig:
        """The run's recipe."""
        return self.experiment.runs[self.run].training

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint's files go."""
        return self.directory / "checkpoints" / str(self.until)


class TrainingModel(nn.Module):
    """Backbone and training signal in one forward, as distributed data parallel needs them."""

    def __init__(self, backbone: SiT, alignment: AlignmentLosses) -> None:
        super().__init__()
        self.backbone = backbone
        self.alignment = alignment

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """L_denoise and the weighted sum of the signals' terms, averaged over the micro-batch, in float32: L is their sum.

        Also the cosines of prediction and guiding feature, of the samples that count.
        """
        depths = self.alignment.depths(batch.step)
        velocity, features = self.backbone.with_features(
            batch.x_BCHW, batch.t_B, batch.dropped_labels_B, depths
        )
        denoising = (velocity.float() - batch.velocity_BCHW).square().mean()
        return denoising, *self.alignment(batch, features)


def build_model(
    experiment: ExperimentConfig,
    run: str,
    store: LatentStore,
    seed: int,
    inputs: Inputs | None = None,
    device: torch.device = CPU,
) -> TrainingModel:
    """A fresh model with the run's signals; the backbone is a function of the seed alone, the same for every arm.

    Raises:
        UserError: a signal lacks what it follows.
    """
    settings, manifest = experiment.runs[run], store.manifest
    shape = SiTShape.of(settings.model, manifest.latent_shape, manifest.num_classes)
    inputs = inputs or Inputs()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, Stream.WEIGHTS))
        backbone = SiT(shape)
        alignment = build_alignment_losses(
            settings.alignments, shape, inputs.teachers, inputs.by_name
        )
        return TrainingModel(backbone, alignment).to(device)


def build_optimizer(parameters: list[nn.Parameter], training: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with the recipe's settings, all parameters in one pass."""
    return torch.optim.AdamW(
        parameters, lr=training.learning_rate, betas=training.betas, eps=training.eps,
        weight_decay=training.weight_decay, fused=True,
    )  # fmt: skip


def accumulate(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    mixed_precision: MixedPrecision,
    accelerator: Accelerator,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of L = L_denoise + L_alignment over one process's share of the global batch.

    Returns the means of L and its two parts, and the sum and the number of the cosines.
    """
    losses, cosines = (
        torch.zeros(3, device=accelerator.device),
        torch.zeros(2, device=accelerator.device),
    )
    share = 1 / len(micro_batches)
    for batch in micro_batches:
        with contextlib.nullcontext() if batch is micro_batches[-1] else accelerator.no_sync(model):
            with mixed_precision.autocast():
                denoising, alignment, found = model(batch)
            loss = denoising + alignment
            mixed_precision.scaler.scale(share * loss).backward()
        losses += share * torch.stack([loss, denoising, alignment]).detach()
        cosines += torch.stack([found.sum(), found.new_tensor(len(found))])
    return losses, cosines


def definition_of(
    segment: Segment, store: LatentStore, inputs: Inputs, mixed_precision: MixedPrecision
) -> dict[str, Any]:
    """All that decides the numbers of a run: its settings, what it reads, the precision that it came to."""
    return {
        **run_definition(segment.experiment, segment.run, segment.seed),
        "inputs": {"latents": store.manifest.digest, **inputs.digests},
        "precision": mixed_precision.precision,
    }


def train_with_lock(segment: Segment, accelerator: Accelerator, stop: StopRequest) -> None:
    """``train`` while the first process owns the run's state; the others wait until it does.

    Raises:
        UserError: another training writes there; or as ``train``.
        Interrupted: as ``train``.
    """
    if accelerator.is_main_process:
        with DirectoryLock(segment.directory / "state", stop) as owner:
            accelerator.wait_for_everyone()
            train(segment, accelerator, stop, owner)
    else:
        accelerator.wait_for_everyone()
        train(segment, accelerator, stop)


def train(
    segment: Segment,
    accelerator: Accelerator,
    stop: StopRequest,
    owner: DirectoryLock | None = None,
) -> None:
    """Train up to the segment's checkpoint and write it; goes on from the newest sound state.

    Args:
        segment: what to train.
        accelerator: the processes and the device.
        stop: set by a signal that asks to save and leave.
        owner: asked before every write, in the first process.

    Raises:
        UserError: the run was trained under another definition, an input is wrong, or the loss is no longer finite.
        Interrupted: a signal arrived; the state is saved.
    """
    training, device, is_main = segment.training, accelerator.device, accelerator.is_main_process
    store = LatentStore(segment.latents)
    inputs = Inputs.open(
        segment.experiment,
        segment.run,
        store,
        segment.teachers,
        segment.encoded,
        segment.encoders,
        device,
    )
    raw_model = build_model(segment.experiment, segment.run, store, segment.seed, inputs, device)
    raw_model.backbone.activation_checkpointing = training.activation_checkpointing
    ema = MovingAverage(raw_model.backbone, training.ema_decay)
    raw_model.alignment.set_ema_model(ema.average)
    if training.compile:  # block by block: one small graph, compiled once
        for block in raw_model.backbone.blocks:
            block.compile()
    parameters = [parameter for parameter in raw_model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(parameters, training)
    mixed_precision = MixedPrecision(
        resolve_precision(training, raw_model.backbone.shape.hidden_size, device), device
    )
    definition = definition_of(segment, store, inputs, mixed_precision)
    check_definition(segment.directory, definition)
    states = StateDirectory(segment.directory / "state", fingerprint(definition))
    progress = TrainingProgress(raw_model, ema.average, optimizer, mixed_precision, accelerator)
    resumed_from = step = progress.resume(states, segment.until)
    model = accelerator.prepare(raw_model)

    def save() -> None:
        """Write the state, unless it is poisoned."""
        progress.share()
        progress.require_finite(segment.directory)
        if is_main:
            if owner is not None:
                owner.check()
            if not (segment.directory / DEFINITION_FILE).is_file():
                write_json(segment.directory / DEFINITION_FILE, definition)
            states.save(step, *progress.state())
            states.prune(step, training.checkpoints)
        accelerator.wait_for_everyone()

    source = BatchSource(store, training, segment.seed, inputs.features, inputs.images)
    parts = local_batch_slices(
        training.batch_size,
        accelerator.num_processes,
        training.accumulate,
        accelerator.process_index,
    )
    control = Control(accelerator, stop, training.save_minutes * 60)
    label = f"{segment.run} seed {segment.seed}"
    model.train()
    with (
        # A segment inserted later repeats steps that are logged already.
        EventFiles(
            segment.directory / "tensorboard", step, enabled=is_main and not states.beyond(step)
        ) as events,
        Progress(segment.until, label, "step", initial=step, quiet=not is_main) as bar,
    ):
        for micro_batches in source.stream(range(step, segment.until), parts, device):
            logs = (step + 1) % training.log_every == 0
            alignment_gradients = (
                alignment_gradient(raw_model, micro_batches, mixed_precision, accelerator)
                if logs
                else []
            )
            losses, cosines = accumulate(model, micro_batches, mixed_precision, accelerator)
            mixed_precision.scaler.unscale_(optimizer)
            norms = (
                gradient_norms(raw_model.backbone, alignment_gradients)
                if logs
                else (math.nan, math.nan)
            )
            norm = clip_grad_norm_(parameters, training.clip_norm or math.inf)
            raw_model.alignment.drop_idle_gradients(step)
            step_skipped = mixed_precision.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
            ema.update()
            step += 1
            progress.count(step, losses, None if step_skipped else norm, cosines)
            if logs:
                progress.share()
                progress.require_finite(segment.directory)
                row = progress.close_interval(step, norms)
                events.write(row, images=training.batch_size * training.log_every)
                bar.update(0, note=f"loss {row['loss']:.4f}")
            bar.update()
            if step < segment.until and (request := control.poll(step)):
                save()
                if request == "leave":
                    raise Interrupted(
                        f"{label}: {stop.reason} at step {step}; saved, rerun the same command to resume"
                    )
    if step > resumed_from:
        save()
    if is_main:
        export(
            segment,
            {"ema": ema.average, "raw": raw_model.backbone},
            progress,
            store.manifest,
            states.fingerprint,
        )
    accelerator.wait_for_everyone()


def export(
    segment: Segment,
    backbones: dict[Weights, SiT],
    progress: TrainingProgress,
    latents: Manifest,
    fingerprint: str,
) -> None:
    """Write the checkpoint: EMA and raw weights, the history so far, and a description with the digests of all."""
    metadata = {
        "run": segment.run,
        "seed": segment.seed,
        "step": segment.until,
        "fingerprint": fingerprint,
        "shape": backbones["raw"].shape.to_json(),
        "interpolant": segment.training.interpolant,
        "latents": {"digest": latents.digest, "scale": latents.scale, "shift": latents.shift},
        "version": __version__,
    }
    digests: dict[str, str] = {}
    for weights, backbone in backbones.items():
        file = segment.checkpoint / f"{weights}.safetensors"
        digests[weights] = save_tensors(
            file, backbone.state_dict(), "weights", {**metadata, "weights": weights}
        )
    history = segment.checkpoint / "history.csv"
    write_text(history, progress.history_as_csv())
    description = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "step": segment.until,
        "after": segment.after,
        "seconds": progress.seconds_spent,
        "digests": {**digests, "history": sha256_of(history)},
    }
    write_json(segment.checkpoint / "checkpoint.json", description)
    remove_stale_temp_files(segment.checkpoint)
