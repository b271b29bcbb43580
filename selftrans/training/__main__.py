"""Train one segment of a run. ``python -m selftrans.training --help``."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from selftrans.config import ExperimentConfig, load_experiment
from selftrans.runtime.arguments import CommandLine, at_least
from selftrans.runtime.devices import add_gpu_argument, lease_gpus
from selftrans.runtime.errors import Interrupted, UserError, run_main
from selftrans.runtime.logs import LOG, set_up_logging
from selftrans.training.failure import FailureMarker
from selftrans.training.input_paths import InputPaths, add_input_arguments
from selftrans.training.launch import (
    in_launched_process,
    launch,
    node_rank,
    notify_launcher,
    stop_request,
)


def main() -> None:
    """The command line: starts torchrun where several processes are requested, else trains."""
    arguments = _parser().parse_args()
    set_up_logging()
    marker = FailureMarker(arguments.directory / "state" / f"failed-{arguments.until}.json")
    if not in_launched_process() and node_rank(arguments.nodes, os.environ) == 0:
        marker.check(arguments.attempt)
    with marker:
        experiment = load_experiment(arguments.experiment)
        if arguments.run not in experiment.runs:
            allowed = ", ".join(experiment.runs)
            raise UserError(
                f"--run: {arguments.run!r} is not a run of the experiment (allowed: {allowed})"
            )
        steps = experiment.runs[arguments.run].training.checkpoints
        if arguments.until not in steps:  # one of an experiment that extends this one
            LOG.warning("--until: %s is no checkpoint of the run (%s)", arguments.until, steps)
        processes, nodes = arguments.gpus or arguments.processes, arguments.nodes
        experiment.runs[arguments.run].training.check_processes(processes, arguments.experiment)
        if processes % nodes:
            raise UserError(f"--nodes: {processes} processes cannot be shared among {nodes} nodes")
        if arguments.gpus:
            lease_gpus(arguments.gpus // nodes)
        if processes > 1 and not in_launched_process():
            launch(processes // nodes, nodes)
        else:
            _train(arguments, experiment)


def _train(arguments: argparse.Namespace, experiment: ExperimentConfig) -> None:
    from selftrans.training.precision import make_accelerator
    from selftrans.training.trainer import Segment, train_with_lock

    segment = Segment(
        experiment=experiment,
        run=arguments.run,
        seed=arguments.seed,
        until=arguments.until,
        latents=arguments.latents,
        inputs=InputPaths.of(arguments),
        directory=arguments.directory,
        after=arguments.after,
        command=shlex.join(["python", "-m", "selftrans.training", *sys.argv[1:]]),
    )
    stop = stop_request()
    training = segment.training
    accelerator = make_accelerator(
        on_gpu=arguments.gpus > 0, tf32=training.tf32, deterministic=training.deterministic
    )
    try:
        train_with_lock(segment, accelerator, stop)
    except Interrupted:
        notify_launcher()
        raise


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="python -m selftrans.training",
        description="Train a run up to one of its checkpoints, or resume it.",
    )
    parser.add_argument("experiment", help="experiment file (YAML)")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--seed", type=at_least(0), required=True, help="seed of the run")
    parser.add_argument(
        "--until", type=at_least(1), required=True, help="checkpoint to train up to, in steps"
    )
    parser.add_argument("--latents", type=Path, required=True, help="manifest of the latent store")
    add_input_arguments(parser)
    parser.add_argument("--directory", type=Path, required=True, help="directory of the run")
    parser.add_argument(
        "--after",
        type=at_least(0),
        default=0,
        help="checkpoint that this one was scheduled behind (recorded)",
    )
    parser.add_argument(
        "--processes",
        type=at_least(1),
        default=1,
        help="processes of a training without GPUs (default: 1)",
    )
    parser.add_argument(
        "--nodes",
        type=at_least(1),
        default=1,
        help="nodes that GPUs or processes are shared among (default: 1)",
    )
    parser.add_argument(
        "--attempt",
        type=at_least(1),
        default=1,
        help="number of this attempt at the job; a later one stops at once after a non-retryable"
        " failure (default: 1)",
    )
    add_gpu_argument(parser)
    return parser


if __name__ == "__main__":
    run_main(main)
