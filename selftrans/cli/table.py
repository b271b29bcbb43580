"""The table of commands, how they are found, and how a mistake is shown."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from selftrans import __version__
from selftrans.cli.project import project_folder, workflow_commands
from selftrans.runtime.errors import run_main
from selftrans.runtime.logs import set_up_logging

EXIT_USAGE = 2


class Entry(NamedTuple):
    """A line of the table."""

    section: str
    module: str
    """Where it is defined; a workflow's commands are part of the project, not of the package."""
    help: str

    def load(self, name: str, context: click.Context) -> click.Command:
        """The command itself; one of the workflow finds its project's folder as ``context.obj``."""
        if self.module == WORKFLOW:
            context.obj = project_folder(context.params.get("project"))
            return workflow_commands(context.obj).COMMANDS[name]
        return importlib.import_module(f"selftrans.cli.{self.module}").COMMANDS[name]


WORKFLOW = "workflow"
PROJECT, MODELS, EVALUATION = "A project", "Models", "Evaluation"
MACHINE, PARTS = "A machine", "Parts of the workflow"
COMMANDS = {
    "new": Entry(PROJECT, WORKFLOW, "Write an experiment for images of your own."),
    "plan": Entry(PROJECT, WORKFLOW, "Say what experiments will take, before they run."),
    "prefetch": Entry(PROJECT, WORKFLOW, "Fetch what experiments need from elsewhere."),
    "run": Entry(PROJECT, WORKFLOW, "Run experiments: all that is still missing."),
    "status": Entry(PROJECT, WORKFLOW, "Say how the runs are doing."),
    "clean": Entry(PROJECT, WORKFLOW, "Delete results that no experiment names."),
    "upload": Entry(PROJECT, WORKFLOW, "Send what jobs made to Weights & Biases."),
    "sample": Entry(MODELS, "sampling", "Draw a picture of chosen classes."),
    "generate": Entry(MODELS, "sampling", "Sample a checkpoint's images for evaluation."),
    "import": Entry(MODELS, "conversion", "Turn a public checkpoint into a weight file."),
    "export": Entry(MODELS, "conversion", "Turn a weight file into a folder for others."),
    "train": Entry(MODELS, "training", "Train a run up to one of its checkpoints."),
    "freeze": Entry(MODELS, "training", "Freeze a teacher."),
    "evaluate": Entry(EVALUATION, "evaluation", "Measure images against a reference."),
    "score": Entry(EVALUATION, "evaluation", "Compare pictures with their captions."),
    "statistics": Entry(EVALUATION, "evaluation", "Compute the feature statistics of images."),
    "features": Entry(EVALUATION, "evaluation", "Compute features of a run's blocks."),
    "weights": Entry(EVALUATION, "evaluation", "Find, check or fetch a feature network's weights."),
    "check-gpu": Entry(MACHINE, "gpu_check", "Check and measure this machine's GPUs."),
    "extract": Entry(PARTS, "extraction", "Encode images into latents or features."),
    "autoencoder": Entry(PARTS, "training", "Train the embedded autoencoder."),
    "classifier": Entry(PARTS, "training", "Train the embedded feature extractor."),
    "reader": Entry(PARTS, "training", "Train the network that reads drawn scenes."),
    "encoder": Entry(PARTS, "training", "Train or fetch an encoder of a data set."),
    "completion": Entry(PARTS, "completion", "Print the script of a shell's completion."),
}


class SelfTrans(click.Group):
    """Finds commands by the table and loads only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name."""
        entry = COMMANDS.get(cmd_name)
        return entry.load(cmd_name, ctx) if entry else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, by sections."""
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(n, entry.help) for n, entry in COMMANDS.items() if entry.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Names for the shell, without loading a command."""
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        return [CompletionItem(name, help=COMMANDS[name].help) for name in names]


@click.command(
    cls=SelfTrans,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""Examples:

    \b
      selftrans run digits
      selftrans status --watch
      selftrans sample results/digits/runs/sit/seed0/checkpoints/3000/ema.safetensors \\
          --classes 3,8 --output threes.png

    `selftrans COMMAND --help` explains a command.""",
)
@click.version_option(__version__, prog_name="selftrans")
@click.option(
    "--project",
    type=click.Path(path_type=Path),
    help="folder of the workflow  [default: the nearest one above with our Snakefile]",
)
def selftrans(project: Path | None) -> None:  # noqa: ARG001 - the table of commands reads it
    """Self-Transcendence: train, sample and evaluate diffusion transformers."""
    set_up_logging()


def usage_line(error: click.UsageError) -> str:
    """A mistake on the command line, in one line: the option, what was found, what is allowed."""
    message = error.message.rstrip(".").replace("\n", " ")
    parameter = getattr(error, "param", None)
    if parameter is not None:
        name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name
        if isinstance(error, click.MissingParameter):
            message = f"{name}: is needed"
        else:
            message = f"{name}: {message}"
    path = error.ctx.command_path if error.ctx else "selftrans"
    return f"error: {message} (see {path} --help)"


def main(words: Sequence[str] | None = None) -> None:
    """The entry point.

    Args:
        words: of the command line; those of this process, if it is None.
    """
    run_command(selftrans, "selftrans", words)


def run_command(command: click.Command, name: str, words: Sequence[str] | None = None) -> None:
    """Run a command; a mistake ends it with one line on stderr and an exit code that is not 0."""

    def call() -> None:
        try:
            command.main(words, prog_name=name, standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError as error:
            print(error.format_message())
        except click.UsageError as error:
            print(usage_line(error), file=sys.stderr)
            sys.exit(EXIT_USAGE)
        except click.Abort:
            sys.exit("interrupted")

    run_main(call)
