"""The commands of ``selftrans`` that need the workflow: click's definitions, nothing else.

The package finds this module by the project's folder and never imports it by name.
"""

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from selftrans.cli.options import FILE, NamedFile, OneOf, WholeNumber, device_option
from selftrans.config import EXPERIMENTS, load_experiment, read_yaml, validated
from selftrans.runs import runs_file
from selftrans.runtime.devices import DeviceName, gpu_names, visible_gpus
from selftrans.runtime.errors import UserError
from workflow.lib import paths
from workflow.lib.cleaning import all_experiments, delete, leftovers
from workflow.lib.new import write_new
from workflow.lib.plan import Plan, parse_rates, report
from workflow.lib.rates import known_rates
from workflow.lib.running import Call, Target, write_changed
from workflow.lib.settings import WorkflowConfig
from workflow.lib.status_view import show
from workflow.lib.study import Study
from workflow.lib.uploads import job_events

CONFIG = Path("config.yaml")
Function = TypeVar("Function", bound=Callable[..., Any])


def in_project(command: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command in the project's folder, wherever it was called."""

    @wraps(command)
    def moved(*arguments: Any, **options: Any) -> Any:
        os.chdir(click.get_current_context().obj)
        return command(*arguments, **options)

    return moved


class Reference(click.ParamType[str]):
    """A name as it is understood in the project's folder: what exists here, by its whole path."""

    def __init__(self, name: str, exists: Callable[[Path], bool]) -> None:
        self.name, self.exists = name, exists

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Of a name or a path."""
        return str(Path(value).absolute()) if self.exists(Path(value)) else value


class Here(click.ParamType[Path]):
    """A path from where the command was called, whichever folder it works in."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Of a path, the whole one."""
        return Path(value).absolute()


class NamedHere(NamedFile):
    """``NAME=FILE`` with such a path."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """Of text, the pair."""
        name, path = super().convert(value, param, ctx)
        return name, path.absolute()


def experiments_argument(command: Function) -> Function:
    """Names or files of experiments."""
    return click.argument("experiments", nargs=-1, type=Reference("experiment", Path.is_file))(
        command
    )


config_option = click.option(
    "--config", type=Here(), help="configuration file  [default: the project's config.yaml]"
)


@click.command(
    epilog="""Examples:

    \b
      selftrans plan imagenet256-b2 --rates bf16=400,tf32=200
      selftrans plan digits --measure"""
)
@experiments_argument
@click.option(
    "--rates",
    default="",
    help="TFLOP/s of a GPU, for instance bf16=400,tf32=200"
    "  [default: those that `selftrans check-gpu` measured, else config.yaml's]",
)
@click.option("--measure", is_flag=True, help="measure this machine by a few steps of training")
@device_option
@config_option
@in_project
def plan(
    experiments: tuple[str, ...], rates: str, measure: bool, device: DeviceName, config: Path | None
) -> None:
    """Say how many jobs, GPU hours and gigabytes EXPERIMENTS will take, by rule.

    Without any, those of config.yaml.
    """
    config = config or CONFIG
    settings = read_yaml(config)
    if experiments:
        settings["experiments"] = list(experiments)
    study = Study.load(settings, str(config))
    known = known_rates(Path(paths.GPU_CHECK), study.settings.rates, gpu_names())
    print(report(Plan(study, parse_rates(rates, known.values)), known.measured_on))
    if measure:
        from workflow.lib import measuring

        for name, experiment in zip(study.references, study.experiments.values(), strict=True):
            one = Study.load({**settings, "experiments": [name]}, str(config))
            rate = measuring.measure(one, experiment, device)
            print(f"\n{experiment.name}\n{measuring.measured_report(one, rate)}")


@click.command(
    epilog="""Examples:

    \b
      selftrans prefetch imagenet256-b2
      selftrans prefetch imagenet256-b2 --weights inception=pt_inception-2015-12-05-6726825d.pth"""
)
@experiments_argument
@click.option(
    "--weights",
    type=NamedHere(),
    multiple=True,
    help="where a feature network's weights lie, by its name (may be repeated)",
)
@config_option
@in_project
def prefetch(
    experiments: tuple[str, ...], weights: tuple[tuple[str, Path], ...], config: Path | None
) -> None:
    """Fetch what EXPERIMENTS need from elsewhere, and look for their images.

    Autoencoders, encoders, text encoders, CLIP, weights of feature networks and reference batches.
    Without any experiment, those of config.yaml.
    """
    from workflow.lib.prefetch import prefetch as fetch_all

    config = config or CONFIG
    settings = validated(WorkflowConfig, read_yaml(config), str(config))
    named = {name: str(path) for name, path in weights}
    changed = {**settings.model_dump(), "weights": settings.weights | named}
    fetch_all(experiments, validated(WorkflowConfig, changed, "--weights"))


@click.command(
    epilog="""Examples:

    \b
      selftrans status --watch
      selftrans status --json | jq '.[] | select(.state == "failed")'"""
)
@click.option("--directory", type=FILE, help="folder that results/ lies in  [default: the project]")
@click.option("--json", "as_json", is_flag=True, help="as JSON, a row for each run and seed")
@click.option("--watch", is_flag=True, help="redraw until Ctrl-C")
@click.pass_obj
def status(project: Path, directory: Path | None, as_json: bool, watch: bool) -> None:
    """Say how the runs of all experiments are doing, from their files alone.

    By run and seed: the steps that are trained, of how many, and the next checkpoint; how long ago
    it was saved and its process heard of; how long it has left, what it waits for included; the
    newest FID. With --watch, a small terminal shows the most urgent runs and counts the others.
    """
    show(directory or project, as_json=as_json, watch=watch)


TARGETS = get_args(Target)


@click.command(
    epilog="""Examples:

    \b
      selftrans run digits
      selftrans run imagenet256-b2 --gpus 8 --until evaluate
      selftrans run digits --set runs.sit.training.learning_rate=1e-3
      selftrans run imagenet256-b2 --profile slurm --dry-run"""
)
@experiments_argument
@click.option("--gpus", type=WholeNumber(0), help="GPUs of this machine that may be used")
@click.option("--cores", help="CPU cores that may be used  [default: all]")
@click.option(
    "--profile",
    type=Reference("profile", Path.is_dir),
    help="of Snakemake: slurm, generic, or a folder",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="change a key of the experiment, as a new experiment that extends it (may be repeated)",
)
@click.option("--name", help="name of the changed experiment  [default: made of the changes]")
@click.option(
    "--until", type=OneOf(TARGETS), default="all", show_default=True, help="what is requested"
)
@click.option("--dry-run", "-n", is_flag=True, help="only say what would be run")
@click.option("--snakemake", "others", multiple=True, help="an option of Snakemake's own")
@in_project
def run(
    experiments: tuple[str, ...],
    gpus: int | None,
    cores: str | None,
    profile: str | None,
    changes: tuple[str, ...],
    name: str | None,
    until: Target,
    dry_run: bool,
    others: tuple[str, ...],
) -> None:
    """Run EXPERIMENTS: all that is still missing. Without any, those of config.yaml.

    Prints the Snakemake command that it stands for.
    """
    if name and not changes:
        raise UserError("--name: names an experiment with changes (allowed: with --set)")
    written = None
    if changes:
        if len(experiments) != 1:
            raise UserError(f"--set: changes one experiment, {len(experiments)} are named")
        changed, is_new = write_changed(experiments[0], changes, name)
        print(f"{changed}: the experiment with these changes")
        experiments = (changed.stem if changed.parent == EXPERIMENTS else str(changed),)
        written = changed if is_new and dry_run else None
    call = Call(experiments, until, cores, gpus, profile, dry_run, others)
    print(call.shown(), flush=True)
    try:
        code = call.run()
    finally:
        if written:
            written.unlink()
    sys.exit(code)


@click.command(
    epilog="""Example:

    \b
      selftrans new ~/pictures/birds
      selftrans plan birds --measure
      selftrans run birds"""
)
@click.argument("images", type=FILE)
@click.option("--name", help="of the data and the experiment  [default: the folder's]")
@click.option("--size", type=WholeNumber(8), help="side of the squares in pixels")
@device_option
@click.pass_obj
def new(
    project: Path, images: Path, name: str | None, size: int | None, device: DeviceName
) -> None:
    """Look at IMAGES and write a data file and an experiment for them, sized for this machine.

    IMAGES is a folder of class folders, a .zip of one, or a directory that Hugging Face's
    `save_to_disk` wrote.
    """
    images = images.expanduser()
    images = images.absolute() if images.exists() else images
    os.chdir(project)
    called = images.stem if images.is_file() else images.name
    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", called).strip("-._")
    if not name:
        raise UserError(f"--name: is needed, {images} gives none")
    gpus = 0 if device == "cpu" else len(visible_gpus())
    found, data_file, experiment_file = write_new(images, name, gpus=gpus, size=size)
    print(f"{found.described()}\n{data_file}, {experiment_file}: written, to be read and changed")
    print(f"Next: selftrans plan {name} --measure; selftrans run {name}")


@click.command(
    epilog="""Examples:

    \b
      selftrans clean
      selftrans clean ~/elsewhere/birds.yaml --states
      selftrans clean --gone digits-of-last-year --yes"""
)
@experiments_argument
@click.option(
    "--gone",
    multiple=True,
    metavar="EXPERIMENT",
    help="also all results of an experiment whose file is gone (may be repeated)",
)
@click.option(
    "--states",
    is_flag=True,
    help="also states of runs whose checkpoints are all there; without one, whatever trains such a"
    " run further, or again, begins at step 0",
)
@click.option("--yes", is_flag=True, help="delete without a question")
@in_project
def clean(experiments: tuple[str, ...], gone: tuple[str, ...], states: bool, yes: bool) -> None:
    """List results that no experiment names, and delete them on confirmation.

    Runs and sets of samples of the experiments in experiments/, in config.yaml and of EXPERIMENTS,
    which may be files elsewhere. What one of them shares with another one stays, and so does what
    is being written. Results of any other experiment are not touched.
    """
    configured = validated(WorkflowConfig, read_yaml(CONFIG), str(CONFIG))
    names = all_experiments(*configured.references(), *experiments)
    study = Study.load({"experiments": names, "data": configured.data})
    if known := [name for name in gone if name in study.known]:
        raise UserError(f"--gone: {known[0]!r} is an experiment (allowed: one without a file)")
    found = leftovers(study, gone, states=states)
    for one in found:
        note = "  (locked: stays)" if one.locked else ""
        print(f"{one.bytes / 1e6:10,.1f} MB  {one.path}  {one.reason}{note}")
    deletable = [one for one in found if not one.locked]
    if not deletable:
        print("nothing to delete")
        return
    size = sum(one.bytes for one in deletable) / 1e6
    if yes or click.confirm(f"Delete {len(deletable)} folders, {size:,.1f} MB?"):
        print(f"{delete(found) / 1e6:,.1f} MB deleted")


@click.command(
    epilog="""Example:

    \b
      WANDB_MODE=offline selftrans upload digits"""
)
@click.argument("experiment", type=Reference("experiment", Path.is_file))
@in_project
def upload(experiment: str) -> None:
    """Send what jobs made of EXPERIMENT's runs to Weights & Biases.

    Samples of fixed noise, reconstructions and metrics, as TensorBoard shows them: those that were
    not sent before. A training with `logger: wandb` sends its own scalars. Call it alone, when the
    jobs are done or in between.
    """
    if not runs_file(Path(), experiment).is_file():
        experiment = load_experiment(experiment).name  # a file, or one line that says what is wrong
    total = 0
    for one in job_events(experiment):
        if count := one.send():
            print(f"{one.name}: {count} sent")
            total += count
    if not total:
        print("nothing that was not sent before")


COMMANDS = {
    "new": new,
    "plan": plan,
    "prefetch": prefetch,
    "run": run,
    "status": status,
    "clean": clean,
    "upload": upload,
}
