"""The training loop: one for every signal, on one process or many, stopped and resumed without a trace."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from selftrans import __version__
from selftrans.config import Experiment, SelfTranscendence, Training, Weights
from selftrans.data.store import LatentStore, Manifest
from selftrans.guidance.base import Batch, Guidance
from selftrans.guidance.registry import build_guidance
from selftrans.models.sit import SiT, SiTShape
from selftrans.models.weights import load_teacher
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.files import remove_remains, sha256_of, write_json, write_text
from selftrans.runtime.lock import SoleWriter
from selftrans.runtime.logs import Progress
from selftrans.runtime.random import Stream, torch_seed
from selftrans.runtime.signals import StopRequest
from selftrans.runtime.tensors import FORMAT, read_metadata, save_tensors
from selftrans.training.batches import BatchSource, process_parts
from selftrans.training.control import Control
from selftrans.training.definition import DEFINITION_FILE, check_definition, fingerprint, run_definition
from selftrans.training.ema import MovingAverage
from selftrans.training.events import EventFiles
from selftrans.training.precision import Arithmetic, resolve_precision
from selftrans.training.progress import TrainingProgress
from selftrans.training.state import StateDirectory

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One job: train a run up to one of its checkpoints."""

    experiment: Experiment
    run: str
    seed: int
    until: int
    """The checkpoint's step."""
    latents: Path
    """Manifest of the latent store."""
    teacher: Path | None
    """The frozen teacher, for the signals that follow one."""
    directory: Path
    """The run's directory: definition, state, checkpoints, event files."""
    after: int = 0
    """The checkpoint that the workflow scheduled this one behind; only recorded."""

    @property
    def training(self) -> Training:
        """The run's recipe."""
        return self.experiment.runs[self.run].training

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint's files go."""
        return self.directory / "checkpoints" / str(self.until)


class TrainingModel(nn.Module):
    """Backbone and training signal in one forward, as distributed data parallel needs them."""

    def __init__(self, backbone: SiT, guidance: Guidance) -> None:
        super().__init__()
        self.backbone = backbone
        self.guidance = guidance

    def forward(self, batch: Batch, guided: bool) -> tuple[Tensor, Tensor]:
        """L_denoise and the signal's term, averaged over the micro-batch, in float32."""
        depths = self.guidance.depths if guided else ()
        velocity, features = self.backbone.with_features(batch.x_BCHW, batch.t_B, batch.dropped_labels_B, depths)
        denoising = (velocity.float() - batch.velocity_BCHW).square().mean()
        if guided:
            return denoising, self.guidance(batch, features)
        # Heads without a term still take part, with zero gradients, so that every process reduces the same buckets.
        return denoising, sum((0.0 * head.sum() for head in self.guidance.parameters()), denoising.new_zeros(()))


def build_model(
    experiment: Experiment,
    run: str,
    store: LatentStore,
    seed: int,
    teacher: Path | None = None,
    device: torch.device = CPU,
) -> TrainingModel:
    """A fresh model with the run's signal; the backbone is a function of the seed alone, the same for every arm.

    Raises:
        UserError: the teacher is of other latents or was cut at another depth.
    """
    settings, manifest = experiment.runs[run], store.manifest
    shape = SiTShape.of(settings.model, manifest.latent_shape, manifest.num_classes)
    frozen = None
    if isinstance(settings.guidance, SelfTranscendence) and teacher is not None:
        frozen, facts = load_teacher(teacher, device)
        if facts["latents"]["digest"] != manifest.digest:
            raise UserError(f"{teacher}: was trained on other latents than {store.directory}")
        if (wanted := settings.guidance.teacher_depth) != frozen.shape.depth:
            raise UserError(f"{teacher}: was cut at block {frozen.shape.depth}, teacher_depth says {wanted}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, Stream.WEIGHTS))
        backbone = SiT(shape)
        return TrainingModel(backbone, build_guidance(settings.guidance, shape, frozen)).to(device)


def build_optimizer(parameters: list[nn.Parameter], training: Training) -> torch.optim.AdamW:
    """AdamW with the recipe's settings, all parameters in one pass."""
    return torch.optim.AdamW(
        parameters, lr=training.learning_rate, betas=training.betas, eps=training.eps,
        weight_decay=training.weight_decay, fused=True,
    )  # fmt: skip


def backward(
    model: nn.Module, batch: Batch, guided: bool, arithmetic: Arithmetic, weight: float, share: float
) -> Tensor:
    """Add a micro-batch's ``share`` of the gradient of L = L_denoise + weight L_alignment; returns L and its two terms."""
    with arithmetic.autocast():
        denoising, alignment = model(batch, guided)
    loss = denoising + weight * alignment
    arithmetic.scaler.scale(share * loss).backward()
    return torch.stack([loss, denoising, alignment]).detach()


def definition_of(segment: Segment, store: LatentStore, arithmetic: Arithmetic) -> dict[str, Any]:
    """All that decides the numbers of a run: its settings, what it reads, the precision that it came to."""
    teacher = read_metadata(segment.teacher, "teacher")["digest"] if segment.teacher else None
    return {
        **run_definition(segment.experiment, segment.run, segment.seed),
        "inputs": {"latents": store.manifest.digest, "teacher": teacher},
        "precision": arithmetic.precision,
    }


def train_as_sole_writer(segment: Segment, accelerator: Accelerator, stop: StopRequest) -> None:
    """``train`` while the first process owns the run's state; the others wait until it does.

    Raises:
        UserError: another training writes there; or as ``train``.
        Interrupted: as ``train``.
    """
    if accelerator.is_main_process:
        with SoleWriter(segment.directory / "state", stop) as owner:
            accelerator.wait_for_everyone()
            train(segment, accelerator, stop, owner)
    else:
        accelerator.wait_for_everyone()
        train(segment, accelerator, stop)


def train(segment: Segment, accelerator: Accelerator, stop: StopRequest, owner: SoleWriter | None = None) -> None:
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
    raw_model = build_model(segment.experiment, segment.run, store, segment.seed, segment.teacher, device)
    raw_model.backbone.activation_checkpointing = training.activation_checkpointing
    ema = MovingAverage(raw_model.backbone, training.ema_decay)
    if training.compile:  # block by block: one small graph, compiled once
        for block in raw_model.backbone.blocks:
            block.compile()
    parameters = [parameter for parameter in raw_model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(parameters, training)
    arithmetic = Arithmetic(resolve_precision(training, raw_model.backbone.shape.width, device), device)
    definition = definition_of(segment, store, arithmetic)
    check_definition(segment.directory, definition)
    states = StateDirectory(segment.directory / "state", fingerprint(definition))
    progress = TrainingProgress(raw_model, ema.average, optimizer, arithmetic, accelerator)
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

    source = BatchSource(store, training, segment.seed)
    parts = process_parts(
        training.batch_size, accelerator.num_processes, training.accumulate, accelerator.process_index
    )
    control = Control(accelerator, stop, training.save_minutes * 60)
    label = f"{segment.run} seed {segment.seed}"
    model.train()
    with (
        # A segment inserted later repeats steps that are logged already.
        EventFiles(segment.directory / "tensorboard", step, enabled=is_main and not states.beyond(step)) as events,
        Progress(segment.until, label, "step", initial=step, quiet=not is_main) as bar,
    ):
        for micro_batches in source.stream(range(step, segment.until), parts, device):
            guided = raw_model.guidance.is_active(step)
            losses = torch.zeros(3, device=device)
            for batch in micro_batches:
                share = 1 / len(micro_batches)
                with contextlib.nullcontext() if batch is micro_batches[-1] else accelerator.no_sync(model):
                    losses += share * backward(model, batch, guided, arithmetic, raw_model.guidance.weight, share)
            arithmetic.scaler.unscale_(optimizer)
            norm = clip_grad_norm_(parameters, training.clip_norm or math.inf)
            if not guided:  # a head without a term must not be moved by Adam's momentum either
                raw_model.guidance.zero_grad(set_to_none=True)
            left_out = arithmetic.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
            ema.update()
            step += 1
            progress.count(step, losses, None if left_out else norm)
            if step % training.log_every == 0:
                progress.share()
                progress.require_finite(segment.directory)
                row = progress.close_interval(step)
                events.write(row, images=training.batch_size * training.log_every)
                bar.update(0, note=f"loss {row['loss']:.4f}")
            bar.update()
            if step < segment.until and (request := control.poll(step)):
                save()
                if request == "leave":
                    raise Interrupted(f"{label}: {stop.reason} at step {step}; saved, the same command goes on")
    if step > resumed_from:
        save()
    if is_main:
        export(segment, {"ema": ema.average, "raw": raw_model.backbone}, progress, store.manifest, states.fingerprint)
    accelerator.wait_for_everyone()


def export(
    segment: Segment, backbones: dict[Weights, SiT], progress: TrainingProgress, latents: Manifest, fingerprint: str
) -> None:
    """Write the checkpoint: EMA and raw weights, the history so far, and a description with the digests of all."""
    facts = {
        "run": segment.run,
        "seed": segment.seed,
        "step": segment.until,
        "fingerprint": fingerprint,
        "shape": backbones["raw"].shape.to_json(),
        "path": segment.training.path,
        "latents": {"digest": latents.digest, "scale": latents.scale, "shift": latents.shift},
        "version": __version__,
    }
    digests: dict[str, str] = {}
    for weights, backbone in backbones.items():
        file = segment.checkpoint / f"{weights}.safetensors"
        digests[weights] = save_tensors(file, backbone.state_dict(), "weights", {**facts, "weights": weights})
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
    remove_remains(segment.checkpoint)
