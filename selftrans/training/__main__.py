"""Train one segment of a run. ``python -m selftrans.training --help``."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from selftrans.config import Experiment, load_experiment
from selftrans.runtime.devices import add_gpu_argument, lease_gpus
from selftrans.runtime.errors import Interrupted, UserError, run_main
from selftrans.runtime.logs import set_up_logging
from selftrans.runtime.signals import StopRequest

SHUTDOWN_SECONDS = 3600  # torchrun's patience with processes that save before they leave


def main() -> None:
    """The command line: starts torchrun where several processes are asked for, else trains."""
    arguments = _parser().parse_args()
    set_up_logging()
    experiment = load_experiment(arguments.experiment)
    if arguments.run not in experiment.runs:
        raise UserError(f"--run: {arguments.run!r} is no run of the experiment (allowed: {', '.join(experiment.runs)})")
    if arguments.gpus:
        lease_gpus(arguments.gpus)
    processes = arguments.gpus or arguments.processes
    in_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    experiment.runs[arguments.run].training.check_processes(processes, arguments.experiment)
    if processes > 1 and not in_torchrun:
        _launch(processes)
    else:
        _train(arguments, experiment)


def _train(arguments: argparse.Namespace, experiment: Experiment) -> None:
    from selftrans.training.precision import make_accelerator
    from selftrans.training.trainer import Segment, train_as_sole_writer

    segment = Segment(
        experiment=experiment,
        run=arguments.run,
        seed=arguments.seed,
        until=arguments.until,
        latents=arguments.latents,
        teacher=arguments.teacher,
        directory=arguments.directory,
        after=arguments.after,
    )
    stop = StopRequest()
    accelerator = make_accelerator(segment.training.precision, on_gpu=arguments.gpus > 0)
    train_as_sole_writer(segment, accelerator, stop)


def _launch(processes: int) -> None:
    """Run this same command line in ``processes`` processes, and end as they end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [f"--shutdown-timeout={SHUTDOWN_SECONDS}"]
    # "--" keeps torchrun from taking our --run for an abbreviation of its own options.
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) // processes)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    child = subprocess.Popen([*command, "-m", "--", "selftrans.training", *sys.argv[1:]], env=environment)
    stop = StopRequest(forward_to=child)
    code = child.wait()
    if code and stop.reason:
        raise Interrupted(f"{stop.reason}: what the processes saved is kept, the same command goes on")
    if code:
        raise UserError(f"a training process ended with exit code {code}; its message stands above")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m selftrans.training", description="Train a run up to one of its checkpoints, or go on with it."
    )
    parser.add_argument("experiment", help="experiment file (YAML)")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--seed", type=int, required=True, help="seed of the run")
    parser.add_argument("--until", type=int, required=True, help="checkpoint to train up to, in steps")
    parser.add_argument("--latents", type=Path, required=True, help="manifest of the latent store")
    parser.add_argument("--teacher", type=Path, help="frozen teacher, for the runs that follow one")
    parser.add_argument("--directory", type=Path, required=True, help="directory of the run")
    parser.add_argument("--after", type=int, default=0, help="checkpoint that this one was scheduled behind (recorded)")
    parser.add_argument("--processes", type=int, default=1, help="processes of a training without GPUs (default: 1)")
    add_gpu_argument(parser)
    return parser


if __name__ == "__main__":
    run_main(main)
