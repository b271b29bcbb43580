"""Options that several commands have, under one name and with one meaning, and their types."""

import functools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from selftrans.runtime.devices import DeviceName
from selftrans.runtime.errors import UserError, shortened
from selftrans.runtime.starter import python
from selftrans.runtime.workers import Shard, Workers
from selftrans.training.input_paths import InputPaths

MOST = 2**53
"""Of any count, step or seed: a larger one is a slip of the finger."""
FILE = click.Path(path_type=Path)
Function = TypeVar("Function", bound=Callable[..., Any])


class WholeNumber(click.ParamType[int]):
    """A whole number of ``least`` or more."""

    name = "number"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Of text, the number."""
        try:
            number = int(value)
        except ValueError:
            text = shortened(repr(value), 42)
            self.fail(f"{text} is no whole number (allowed: {self.least} or more)", param, ctx)
        if not self.least <= number <= MOST:
            allowed = f"(allowed: {self.least} or more, to {MOST})"
            self.fail(f"{shortened(value, 42)} is not allowed {allowed}", param, ctx)
        return number


class Number(click.ParamType[float]):
    """A number of these bounds, both included."""

    name = "number"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Of text, the number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self.low <= number <= self.high:
            text = shortened(repr(value), 42)
            allowed = f"(allowed: {self.low:g} to {self.high:g})"
            self.fail(f"{text} is not allowed {allowed}", param, ctx)
        return number


class OneOf(click.Choice[str]):
    """One of several words."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """What was found, and what is allowed."""
        return f"{shortened(repr(value), 42)} is unknown (allowed: {', '.join(self.choices)})"


class Worker(click.ParamType[Shard]):
    """``2/8`` is the third of eight processes."""

    name = "rank/size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Shard:
        """Of text, the share."""
        try:
            return Shard.parse(value)
        except ValueError:
            self.fail(f"{shortened(repr(value), 42)} is no share (allowed: 2/8)", param, ctx)


class NamedFile(click.ParamType[tuple[str, Path]]):
    """``NAME=FILE`` as a pair."""

    name = "name=file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """Of text, the pair."""
        name, separator, path = value.partition("=")
        if not (name and separator and path):
            self.fail(f"{shortened(repr(value), 80)} is not NAME=FILE", param, ctx)
        return name, Path(path)


autoencoder_option = click.option(
    "--autoencoder", help="directory or hub name of the autoencoder that made the latents"
)
decoder_option = click.option(
    "--decoder", help="that of another autoencoder, which decodes the same latents"
)


def check_one_decoder(autoencoder: str | None, decoder: str | None) -> None:
    """Refuse both of the options above.

    Raises:
        UserError: both are given.
    """
    if autoencoder and decoder:
        raise UserError("--decoder: is given beside --autoencoder (allowed: one of them)")


def data_argument(command: Function) -> Function:
    """A data file."""
    return click.argument("data")(command)


def device_option(command: Function) -> Function:
    """Where to compute."""
    return click.option(
        "--device",
        type=OneOf(get_args(DeviceName)),
        default="auto",
        show_default=True,
        help="where to compute; auto is a GPU where there is one",
    )(command)


def processes_option(what: str) -> Callable[[Function], Function]:
    """The processes; ``what`` they share."""
    return click.option(
        "--processes",
        type=WholeNumber(1),
        default=1,
        show_default=True,
        help=f"processes that share {what}, each with a GPU of its own where GPUs are used",
    )


def process_options(command: Function) -> Function:
    """The device, and the processes that share the work."""
    command = click.option("--worker", type=Worker(), hidden=True)(command)
    return device_option(processes_option("the work")(command))


def workers_of(device: DeviceName, processes: int, worker: Shard | None) -> Workers:
    """What the options above say; several processes start this command line again."""
    return Workers(device, processes, worker, (python(), "-m", "selftrans", *sys.argv[1:]))


def batch_size_option(default: int) -> Callable[[Function], Function]:
    """Images at a time."""
    return click.option(
        "--batch-size",
        type=WholeNumber(1),
        default=default,
        show_default=True,
        help="images at a time",
    )


def output_option(what: str) -> Callable[[Function], Function]:
    """The file or folder that is written."""
    return click.option("--output", "-o", type=FILE, required=True, help=what)


def events_option(what: str) -> Callable[[Function], Function]:
    """The folder of a TensorBoard event file."""
    return click.option(
        "--events", type=FILE, help=f"directory for a TensorBoard event file with {what}"
    )


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a training reads beside latents, for a command that takes ``inputs: InputPaths``."""

    @functools.wraps(command)
    def with_inputs(
        *words: Any,
        captions: Path | None,
        teachers: tuple[tuple[str, Path], ...],
        features: tuple[Path, ...],
        encoders: tuple[Path, ...],
        **others: Any,
    ) -> Any:
        inputs = InputPaths(
            captions=captions, teachers=dict(teachers), features=features, encoders=encoders
        )
        return command(*words, inputs=inputs, **others)

    options = (
        click.option(
            "--captions",
            type=FILE,
            help="manifest of a caption store, for a run that is conditioned on captions",
        ),
        click.option(
            "--teacher",
            "teachers",
            type=NamedFile(),
            multiple=True,
            help="frozen teacher of a term of the loss, by the term's name (may be repeated)",
        ),
        click.option(
            "--features",
            type=FILE,
            multiple=True,
            help="manifest of a feature store that a term reads (may be repeated)",
        ),
        click.option(
            "--encoder",
            "encoders",
            type=FILE,
            multiple=True,
            help="file of an encoder that a term runs (may be repeated)",
        ),
    )
    result: Callable[..., Any] = with_inputs
    for option in reversed(options):
        result = option(result)
    return result


def check_output(output: Path, *inputs: Path | None, suffix: str | None = None) -> None:
    """Refuse an output before hours of work that could not be written.

    Args:
        output: the file to write.
        inputs: what the work reads.
        suffix: that the file's name must have.

    Raises:
        UserError: it is a directory, one of the inputs, or has another suffix.
    """
    if output.is_dir():
        raise UserError(f"--output: {output} is a directory (allowed: a file)")
    if suffix is not None and output.suffix != suffix:
        raise UserError(f"--output: {output} has another suffix (allowed: {suffix})")
    for path in inputs:
        if path is not None and path.exists() and output.exists() and output.samefile(path):
            raise UserError(f"--output: {output} is the input (allowed: another file)")


def parse_json(text: str, option: str) -> dict[str, Any]:
    """An option's mapping in JSON.

    Raises:
        UserError: it is something else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{option}: not JSON ({str(error)[:200]})") from None
    if not isinstance(value, dict):
        raise UserError(f"{option}: is {text[:40]!r} (allowed: a mapping in JSON)")
    return value
