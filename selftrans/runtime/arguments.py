"""Command lines: numbers within bounds, and a mistake said in one line."""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from selftrans.runtime.errors import UserError

EXIT_USAGE = 2
MOST = 2**53
"""Of any count, step or seed: a larger one is a slip of the finger."""


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage above them."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end with exit code 2."""
        print(
            f"error: {message.removeprefix('argument ')} (see {self.prog} --help)", file=sys.stderr
        )
        sys.exit(EXIT_USAGE)


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


def within(low: float, high: float) -> Callable[[str], float]:
    """The type of an option that takes a number of these bounds, both included."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is not allowed (allowed: {low:g} to {high:g})"
            )
        return value

    return parse


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number of ``least`` or more."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is no whole number (allowed: {least} or more)"
            ) from None
        if not least <= value <= MOST:
            raise argparse.ArgumentTypeError(
                f"{text[:40]} is not allowed (allowed: {least} or more, to {MOST})"
            )
        return value

    return parse
