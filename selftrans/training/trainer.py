"""The training loop: one for every signal, on one process or many, stopped and resumed without a trace."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from selftrans import __version__
from selftrans.config import Experiment, SelfTranscendence, Training, Weights
from selftrans.data.store import LatentStore
from selftrans.guidance.base import Batch, Guidance
from selftrans.guidance.registry import build_guidance
from selftrans.models.sit import SiT, SiTShape
from selftrans.models.weights import load_teacher
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.runtime.files import write_json, write_text
from selftrans.runtime.lock import SoleWriter
from selftrans.runtime.logs import LOG, Progress
from selftrans.runtime.random import Stream, torch_seed
from selftrans.runtime.signals import StopRequest
from selftrans.runtime.tensors import read_metadata, save_tensors
from selftrans.training.batches import BatchSource, process_parts
from selftrans.training.definition import DEFINITION_FILE, check_definition, fingerprint, run_definition
from selftrans.training.state import StateDirectory

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CPU = torch.device("cpu")
HISTORY_COLUMNS = ("step", "loss", "denoising", "alignment", "gradient_norm")


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
        accelerator: the processes, the device and the precision.
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
    ema = copy.deepcopy(raw_model.backbone).requires_grad_(False)
    if training.compile:  # block by block: one small graph, compiled once
        for block in raw_model.backbone.blocks:
            block.compile()
    raw_optimizer = torch.optim.AdamW(
        [parameter for parameter in raw_model.parameters() if parameter.requires_grad],
        lr=training.learning_rate, betas=training.betas, eps=training.eps, weight_decay=training.weight_decay, fused=True,
    )  # fmt: skip
    definition = run_definition(segment.experiment, segment.run, segment.seed) | {
        "inputs": {
            "latents": store.manifest.digest,
            "teacher": read_metadata(segment.teacher, "teacher")["digest"] if segment.teacher else None,
        },
        "precision": accelerator.mixed_precision,
    }
    check_definition(segment.directory, definition)
    states = StateDirectory(segment.directory / "state", fingerprint(definition))
    progress = TrainingProgress(raw_model, ema, raw_optimizer)
    resumed_from = step = progress.resume(states, segment.until)
    model, optimizer = accelerator.prepare(raw_model, raw_optimizer)

    def save() -> None:
        """Write the state, unless it is poisoned."""
        progress.average_over(accelerator)
        progress.require_finite(segment.directory)
        if is_main:
            if owner is not None:
                owner.check()
            if not (segment.directory / DEFINITION_FILE).is_file():
                write_json(segment.directory / DEFINITION_FILE, definition)
            states.save(step, *progress.state())
            states.prune(step, training.checkpoints)
        accelerator.wait_for_everyone()

    update_ema = get_ema_multi_avg_fn(training.ema_decay)
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
                is_last = batch is micro_batches[-1]
                with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
                    denoising, alignment = model(batch, guided)
                    loss = denoising + raw_model.guidance.weight * alignment
                    accelerator.backward(loss / len(micro_batches))
                losses += torch.stack([loss, denoising, alignment]).detach() / len(micro_batches)
            norm = accelerator.clip_grad_norm_(model.parameters(), training.clip_norm or math.inf)
            if not guided:  # a head without a term must not be moved by Adam's momentum either
                raw_model.guidance.zero_grad(set_to_none=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            update_ema(list(ema.parameters()), list(raw_model.backbone.parameters()), step)
            step += 1
            progress.count(step, losses, norm)
            if step % training.log_every == 0:
                progress.average_over(accelerator)
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
        export(segment, progress, store)
    accelerator.wait_for_everyone()


class Control:
    """When to save and when to leave; all processes decide alike, by what the first one says.

    Args:
        accelerator: the processes.
        stop: the signal's request.
        save_seconds: time between two saves in progress.
    """

    POLL_STEPS = 10  # between two questions to the first process, where there are several

    def __init__(self, accelerator: Accelerator, stop: StopRequest, save_seconds: float) -> None:
        self.accelerator, self.stop, self.save_seconds = accelerator, stop, save_seconds
        self._saved_at = time.monotonic()

    def poll(self, step: int) -> Literal["save", "leave"] | None:
        """What is due after ``step`` steps."""
        due = 2 if self.stop.reason else int(time.monotonic() - self._saved_at >= self.save_seconds)
        if self.accelerator.num_processes > 1:
            if step % self.POLL_STEPS:
                return None
            asked = torch.tensor([due], device=self.accelerator.device)
            due = int(self.accelerator.gather(asked).max())
        if due == 0:
            return None
        self._saved_at = time.monotonic()
        return "leave" if due == 2 else "save"


class TrainingProgress:
    """Everything that a stopped training needs to go on: weights, average, moments, logged losses.

    Args:
        model: backbone and heads, not wrapped.
        ema: the averaged backbone.
        optimizer: AdamW, not wrapped.
    """

    def __init__(self, model: TrainingModel, ema: SiT, optimizer: torch.optim.AdamW) -> None:
        self.model, self.ema, self.optimizer = model, ema, optimizer
        device = next(model.parameters()).device
        self.history: list[list[float]] = []
        self.sums = torch.zeros(len(HISTORY_COLUMNS), device=device)  # steps, then the other columns
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.seconds = 0.0
        self._since = time.monotonic()

    def count(self, step: int, losses: Tensor, norm: Tensor) -> None:
        """Add one step's losses (total, denoising, alignment) and gradient norm, without waiting for the device."""
        numbers = torch.cat([losses.new_ones(1), losses, norm.reshape(1)])
        self.sums += numbers
        bad = ~torch.isfinite(numbers).all() & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)

    def average_over(self, accelerator: Accelerator) -> None:
        """Replace this process's sums by the mean over the processes."""
        if accelerator.num_processes > 1:
            self.sums = accelerator.reduce(self.sums, "mean")

    def close_interval(self, step: int) -> dict[str, float]:
        """The means since the last call, as one row of the history."""
        steps, *sums = self.sums.tolist()
        self.sums.zero_()
        self.history.append([float(step), *(value / steps for value in sums)])
        return dict(zip(HISTORY_COLUMNS, self.history[-1], strict=True))

    def require_finite(self, directory: Path) -> None:
        """Raise where a loss or a gradient was not finite.

        Raises:
            UserError: the step is named; what is on disk is from before it.
        """
        if (bad := int(self.first_bad_step)) >= 0:
            raise UserError(
                f"{directory}: loss or gradient is not finite at step {bad}; the last good state is kept."
                " Lower training.learning_rate, or train with precision fp32"
            )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a state file."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64).reshape(-1, len(HISTORY_COLUMNS))
        tensors["sums"] = self.sums
        return tensors, {"seconds": self.seconds_spent}

    def resume(self, states: StateDirectory, until: int) -> int:
        """Load the newest sound state not past ``until`` and return its step; 0 without one."""
        found = states.load_newest(until)
        if found is None:
            return 0
        step, tensors, metadata = found
        self.model.load_state_dict(_below("model.", tensors))
        self.ema.load_state_dict(_below("ema.", tensors))
        for name, parameter in self.model.named_parameters():
            moments = _below(f"optimizer.{name}.", tensors)
            if moments:
                on_device = {key: value.to(parameter.device) for key, value in moments.items()}
                self.optimizer.state[parameter].update(on_device)
        self.history = tensors["history"].tolist()
        self.sums = tensors["sums"].to(self.sums.device)
        self.seconds = metadata["seconds"]
        LOG.info("going on from step %d", step)
        return step

    @property
    def seconds_spent(self) -> float:
        """Wall time of this training, over all its attempts."""
        return self.seconds + time.monotonic() - self._since


class EventFiles:
    """TensorBoard event files of a run; on a resumed run, what lies beyond the resumed step is hidden.

    Args:
        directory: where the files go.
        step: the step that the training goes on from.
        enabled: false in every process but the first.
    """

    def __init__(self, directory: Path, step: int, *, enabled: bool) -> None:
        self._directory, self._step, self._enabled = directory, step, enabled
        self._writer: SummaryWriter | None = None
        self._written_at = time.monotonic()

    def __enter__(self) -> EventFiles:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, row: dict[str, float], images: int) -> None:
        """Write one row of the history and the rate since the last one."""
        if not self._enabled:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._directory, purge_step=self._step + 1)
        now = time.monotonic()
        step = int(row["step"])
        for name in HISTORY_COLUMNS[1:]:
            self._writer.add_scalar(f"train/{name}", row[name], step)
        self._writer.add_scalar("speed/images_per_second", images / (now - self._written_at), step)
        self._written_at = now


def export(segment: Segment, progress: TrainingProgress, store: LatentStore) -> None:
    """Write the checkpoint: EMA and raw weights, the history so far, and a description."""
    manifest = store.manifest
    facts = {
        "run": segment.run,
        "seed": segment.seed,
        "step": segment.until,
        "shape": progress.model.backbone.shape.to_json(),
        "path": segment.training.path,
        "latents": {"digest": manifest.digest, "scale": manifest.scale, "shift": manifest.shift},
        "version": __version__,
    }
    backbones: dict[Weights, SiT] = {"ema": progress.ema, "raw": progress.model.backbone}
    digests = {
        weights: save_tensors(
            segment.checkpoint / f"{weights}.safetensors",
            backbone.state_dict(),
            "weights",
            {**facts, "weights": weights},
        )
        for weights, backbone in backbones.items()
    }
    lines = [",".join(HISTORY_COLUMNS), *(f"{int(row[0])}," + ",".join(map(repr, row[1:])) for row in progress.history)]
    write_text(segment.checkpoint / "history.csv", "\n".join(lines) + "\n")
    description = {"step": segment.until, "after": segment.after, "seconds": progress.seconds_spent, "digests": digests}
    write_json(segment.checkpoint / "checkpoint.json", description)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
