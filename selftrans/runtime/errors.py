"""Errors that a user can fix, and how a command line shows them: a line for each problem."""

import logging
import os
import sys
from collections.abc import Callable

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: progress is saved, rerun the same command to resume


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


def run_main(main: Callable[[], None]) -> None:
    """Run a command line's ``main``: a ``UserError`` is shown on stderr, with exit code 1."""
    try:
        main()
    except UserError as error:
        logging.getLogger("selftrans").debug("user error", exc_info=True)
        rank = os.environ.get("RANK")
        sys.exit(error.shown("error" if rank is None else f"error in process {rank}"))
    except Interrupted as stop:
        print(f"interrupted: {stop}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
