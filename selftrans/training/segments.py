"""One segment of a run, on any number of processes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from selftrans.config import load_experiment
from selftrans.runtime.devices import DeviceName, granted_gpus, lease_gpus
from selftrans.runtime.errors import Interrupted, UserError
from selftrans.training.failure import FailureMarker
from selftrans.training.input_paths import InputPaths
from selftrans.training.launch import (
    in_launched_process,
    launch,
    node_rank,
    notify_launcher,
    stop_request,
)

if TYPE_CHECKING:
    from selftrans.training.trainer import Segment


def train(
    experiment: str | Path,
    run: str,
    seed: int,
    until: int,
    *,
    latents: Path,
    directory: Path,
    inputs: InputPaths | None = None,
    after: int = 0,
    inserted: bool = False,
    device: DeviceName = "auto",
    processes: int = 1,
    nodes: int = 1,
    attempt: int = 1,
    command: str = "",
) -> None:
    """Train a run up to one of its checkpoints, or resume it.

    With several processes, the first call starts this same command line once for each.

    Args:
        experiment: its file, or its name.
        run, seed: which of its trainings.
        until: the checkpoint to train up to, in steps.
        latents: manifest of the latent store.
        directory: of the run.
        inputs: what the run's loss follows.
        after: the checkpoint that this one was scheduled behind (recorded).
        inserted: whether the checkpoint is one of an experiment that extends this one.
        device: with ``cuda``, each process has a GPU.
        processes: in all.
        nodes: that share them.
        attempt: a later attempt stops at once after a failure that no attempt can mend.
        command: the command line that trains, if there is one (recorded).

    Raises:
        UserError: a file or a setting cannot be used, or the training has failed.
        Interrupted: a signal arrived; the state is saved.
    """
    marker = FailureMarker(directory / "state" / f"failed-{until}.json")
    if not in_launched_process() and node_rank(nodes, os.environ) == 0:
        marker.check(attempt)
    with marker:
        settings = load_experiment(experiment)
        if run not in settings.runs:
            allowed = ", ".join(settings.runs)
            raise UserError(f"--run: {run!r} is not a run of the experiment (allowed: {allowed})")
        training = settings.runs[run].training
        if until not in training.checkpoints and not inserted:
            raise UserError(
                f"--until: {until} is no checkpoint of the run"
                f" (allowed: {', '.join(map(str, training.checkpoints))};"
                " any other with --inserted)"
            )
        settings.runs[run].check_processes(processes, str(experiment))
        if processes % nodes:
            raise UserError(f"--nodes: {processes} processes cannot be shared among {nodes} nodes")
        if gpus := granted_gpus(device, processes // nodes):
            lease_gpus(gpus)
        if processes > 1 and not in_launched_process():
            launch(processes // nodes, nodes)
            return

        from selftrans.training.trainer import Segment

        segment = Segment(
            experiment=settings,
            run=run,
            seed=seed,
            until=until,
            latents=latents,
            inputs=inputs or InputPaths(),
            directory=directory,
            after=after,
            command=command,
        )
        _train(segment, on_gpu=gpus > 0)


def _train(segment: "Segment", *, on_gpu: bool) -> None:
    from selftrans.training.precision import make_accelerator
    from selftrans.training.trainer import train_with_lock

    training, stop = segment.training, stop_request()
    accelerator = make_accelerator(
        on_gpu=on_gpu, tf32=training.tf32, deterministic=training.deterministic
    )
    try:
        train_with_lock(segment, accelerator, stop)
    except Interrupted:
        notify_launcher()
        raise
    accelerator.end_training()  # NCCL complains of a group that outlives its processes
