"""Errors that a user can fix, and how a command line shows them: a line for each problem."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: progress is saved, rerun the same command to resume


def shortened(text: str, most: int = 160) -> str:
    """Text for a message: in one line, of printable characters, and not longer than ``most``."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text[:10_000].split()))
    return line if len(line) <= most else f"{line[: most - 3]}..."


class UserError(Exception):
    """Something outside the program is wrong: a file, a key, a value; a line for each problem."""

    def shown(self, by: str = "error") -> str:
        """The message as a command line shows it: every line says that it is an error."""
        return "\n".join(f"{by}: {line}" for line in str(self).splitlines())


class ConfigError(UserError):
    """An experiment or data file is wrong."""


class Unavailable(UserError):
    """Something needed is not available here, or not yet; a later attempt may succeed."""


class InUse(Unavailable):
    """Another process uses what this one needs."""


class Interrupted(Exception):
    """A signal requested the program to stop; its progress is saved."""


@contextmanager
def system_errors_as_unavailable() -> Iterator[None]:
    """Say in one line what the system refuses: a full disk, a file that may not be read.

    Raises:
        Unavailable: for an ``OSError`` of the system.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | ChildProcessError):
            raise
        logging.getLogger("selftrans").debug("system error", exc_info=True)
        name = f"{error.filename}: " if error.filename else ""
        raise Unavailable(f"{name}{error.strerror}") from None


def run_main(main: Callable[[], None]) -> None:
    """Run a command line's ``main``: a ``UserError`` is shown on stderr, with exit code 1."""
    try:
        with system_errors_as_unavailable():
            main()
    except UserError as error:
        logging.getLogger("selftrans").debug("user error", exc_info=True)
        rank = os.environ.get("RANK")
        sys.exit(error.shown("error" if rank is None else f"error in process {rank}"))
    except Interrupted as stop:
        print(f"interrupted: {stop}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
