"""The training loop: one for every alignment loss, on one process or many, resumed exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from selftrans import __version__
from selftrans.config import ExperimentConfig, TrainingConfig, fingerprint, run_definition
from selftrans.config.user_code import is_own_class
from selftrans.data.store import LatentStore
from selftrans.models.metadata import LatentScaling, WeightsMetadata
from selftrans.models.shape import BackboneShape
from selftrans.runtime.errors import Interrupted
from selftrans.runtime.events import EventStream
from selftrans.runtime.files import write_json
from selftrans.runtime.lock import DirectoryLock
from selftrans.runtime.logs import Progress
from selftrans.runtime.machine import describe_machine
from selftrans.runtime.signals import StopRequest
from selftrans.training.batches import local_batch_slices
from selftrans.training.control import Control
from selftrans.training.definition import DEFINITION_FILE, check_definition, keep_sources
from selftrans.training.ema import MovingAverage
from selftrans.training.events import Logger, ScalarLog
from selftrans.training.export import export
from selftrans.training.gradients import alignment_gradient, gradient_norms
from selftrans.training.held_out import HeldOutLoss
from selftrans.training.input_paths import InputPaths
from selftrans.training.inputs import Inputs
from selftrans.training.model import (
    accumulate,
    apply_gradient,
    batch_source,
    build_model,
    build_optimizer,
    prepare_blocks,
    settle,
)
from selftrans.training.precision import MixedPrecision, resolve_precision
from selftrans.training.progress import TrainingProgress
from selftrans.training.state import StateDirectory
from selftrans.training.throughput import Throughput
from selftrans.training.tracing import traced
from selftrans.training.weights_and_biases import WeightsAndBiases


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
    inputs: InputPaths = field(default_factory=InputPaths)
    """What the terms of its loss follow."""
    directory: Path
    """The run's directory: definition, state, checkpoints, event files."""
    after: int = 0
    """The checkpoint that the workflow scheduled this one behind; only recorded."""
    command: str = ""
    """The command line that trains, if there is one; only recorded."""

    @property
    def training(self) -> TrainingConfig:
        """The run's recipe."""
        return self.experiment.runs[self.run].training

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"{self.run} seed {self.seed}"

    @property
    def checkpoint(self) -> Path:
        """Directory of the checkpoint's files."""
        return self.directory / "checkpoints" / str(self.until)


def definition_of(
    segment: Segment, store: LatentStore, inputs: Inputs, mixed_precision: MixedPrecision
) -> dict[str, Any]:
    """All that defines the numbers of a run: settings, inputs, and the precision in use.

    Of a run that was trained before, it is the stored definition, by which its files are known.

    Raises:
        UserError: the run was trained under another definition.
    """
    experiment, run, seed = segment.experiment, segment.run, segment.seed
    used = {
        "inputs": {"latents": store.manifest.digest, **inputs.digests},
        "precision": mixed_precision.precision,
    }
    stored = check_definition(segment.directory, experiment, run, seed, used)
    return stored or {**run_definition(experiment, run, seed), **used}


def weights_metadata(
    segment: Segment,
    shape: BackboneShape,
    store: LatentStore,
    inputs: Inputs,
    fingerprint: str,
) -> WeightsMetadata:
    """What the checkpoint's weight files say about themselves."""
    latents, model = store.manifest, segment.experiment.runs[segment.run].model
    return WeightsMetadata(
        run=segment.run,
        seed=segment.seed,
        step=segment.until,
        fingerprint=fingerprint,
        shape=shape,
        own_backbone=model.model_dump(mode="json") if is_own_class(model) else None,
        interpolant=segment.training.interpolant,
        text_encoder=inputs.text_encoder,
        latents=LatentScaling(
            digest=latents.digest,
            scale=latents.scale,
            shift=latents.shift,
            autoencoder_digest=latents.origin.get("autoencoder_digest"),
        ),
        version=__version__,
        weights="raw",
    )


def loggers_of(segment: Segment, definition: Mapping[str, Any], step: int) -> list[Logger]:
    """Where the scalars of a training go that resumes from ``step``; nowhere, if it is done.

    Raises:
        UserError: a logger cannot begin.
    """
    if step == segment.until:
        return []
    loggers: list[Logger] = [EventStream(segment.directory / "tensorboard", step)]
    if segment.training.logger == "wandb":
        names = segment.experiment.name, segment.run
        loggers.append(WeightsAndBiases(*names, definition, segment.directory))
    return loggers


def train_with_lock(segment: Segment, accelerator: Accelerator, stop: StopRequest) -> None:
    """``train`` while the first process owns the run's state; the others wait until it does.

    Raises:
        UserError: another process writes there; or as ``train``.
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
    """Train up to the segment's checkpoint and write it; resumes from the newest sound state.

    Args:
        segment: what to train.
        accelerator: the processes and the device.
        stop: set by a signal that requests to save and stop.
        owner: checked before every write, in the first process.

    Raises:
        UserError: the run was trained under another definition, an input is wrong, or the loss is
            not finite.
        Interrupted: a signal arrived; the state is saved.
    """
    training, device, is_main = segment.training, accelerator.device, accelerator.is_main_process
    store = LatentStore(segment.latents)
    inputs = Inputs.open(
        segment.experiment, segment.run, segment.seed, store, segment.inputs, device
    )
    raw_model = build_model(segment.experiment, segment.run, store, segment.seed, inputs, device)
    ema = MovingAverage(raw_model.backbone, training.ema_decay)
    raw_model.alignment.set_ema_model(ema.average)
    prepare_blocks(raw_model.backbone, training)
    parameters = [parameter for parameter in raw_model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(parameters, training)
    mixed_precision = MixedPrecision(
        resolve_precision(training, raw_model.backbone.shape.hidden_size, device), device
    )
    definition = definition_of(segment, store, inputs, mixed_precision)
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
                keep_sources(segment.directory, segment.experiment.runs[segment.run])
                write_json(segment.directory / DEFINITION_FILE, definition)
            states.save(step, *progress.state())
            states.prune(step, training.checkpoints)
        accelerator.wait_for_everyone()

    source = batch_source(store, training, segment.seed, inputs, raw_model.alignment)
    micro_batch_slices = local_batch_slices(
        training.batch_size,
        accelerator.num_processes,
        training.accumulate,
        accelerator.process_index,
    )
    held_out = HeldOutLoss(store, training, mixed_precision, accelerator, inputs.conditions(store))
    control = Control(accelerator, stop, training.save_minutes * 60)
    throughput = Throughput(
        segment.experiment,
        segment.run,
        precision=mixed_precision.precision,
        device=device,
        processes=accelerator.num_processes,
        step=step,
    )
    batches = traced(  # around what is timed: writing a trace is no waiting for data
        throughput.timed(source.stream(range(step, segment.until), micro_batch_slices, device)),
        first=step,
        step=training.profile.step if training.profile and is_main else None,
        directory=segment.directory,
        device=device,
    )
    model.train()
    settle(
        model,
        lambda: [source.draw(step, positions, device) for positions in micro_batch_slices],
        mixed_precision,
        accelerator,
    )
    with (
        # A segment inserted later repeats steps that are logged already.
        ScalarLog(
            loggers_of(segment, definition, step) if is_main and not states.beyond(step) else (),
            device,
        ) as log,
        Progress(segment.until, segment.label, "step", initial=step, quiet=not is_main) as bar,
    ):
        for micro_batches in batches:
            logs = (step + 1) % training.log_every == 0
            alignment_gradients = (
                alignment_gradient(raw_model, micro_batches, mixed_precision, accelerator)
                if logs
                else []
            )
            losses = accumulate(model, micro_batches, mixed_precision, accelerator)
            mixed_precision.scaler.unscale_(optimizer)
            norms = (
                gradient_norms(raw_model.backbone, alignment_gradients)
                if logs
                else (math.nan, math.nan)
            )
            norm = apply_gradient(raw_model, parameters, optimizer, mixed_precision, step, training)
            ema.update()
            step += 1
            progress.count(step, losses, norm)
            if logs:
                progress.share()
                progress.require_finite(segment.directory)
                row = progress.close_interval(step, norms)
                log.write_interval(row, throughput.close_interval(step), optimizer)
                bar.update(0, note=f"loss {row['loss']:.4f}")
            if held_out.is_due(step):
                log.write_held_out(progress.add_held_out(held_out.row(step, ema.average)))
            bar.update()
            if step < segment.until and (request := control.poll(step)):
                save()
                if request == "stop":
                    raise Interrupted(
                        f"{segment.label}: {stop.reason} at step {step}; saved,"
                        " rerun the same command to resume"
                    )
    if step > resumed_from:
        save()
    if is_main:
        export(
            segment.checkpoint,
            {"ema": ema.average, "raw": raw_model.backbone},
            weights_metadata(segment, raw_model.backbone.shape, store, inputs, states.fingerprint),
            progress.tables(),
            after=segment.after,
            seconds=progress.seconds_spent,
            reached=throughput.total(step),
            machine=describe_machine(device, accelerator.num_processes),
            command=segment.command,
        )
    accelerator.wait_for_everyone()
