"""Logging and progress: a bar on a terminal, plain lines everywhere else."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from selftrans.runtime.errors import UserError, system_errors_as_unavailable

LOG = logging.getLogger("selftrans")
FORMAT, DATE_FORMAT = "%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"


def set_up_logging() -> None:
    """Send the package's messages to stderr, with the time in front of each."""
    logging.basicConfig(level=logging.INFO, format=FORMAT, datefmt=DATE_FORMAT, stream=sys.stderr)


class Progress:
    """Progress of a loop: a bar on a terminal, else a line every ``interval`` seconds.

    Args:
        total: number of units of the whole work.
        label: name of the work.
        unit: in the singular.
        initial: units done by earlier attempts; they do not count in the rate.
        interval: seconds between two plain lines.
        quiet: show nothing (every process but the first).
    """

    def __init__(
        self,
        total: int,
        label: str,
        unit: str,
        *,
        initial: int = 0,
        interval: float = 15.0,
        quiet: bool = False,
    ) -> None:
        self.total, self.label, self.unit, self.interval = total, label, unit, interval
        self.initial = self.done = initial
        self._started = self._reported = time.monotonic()
        self._note = ""
        self._quiet = quiet
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            from tqdm import tqdm  # not needed where there is no terminal

            self._bar = tqdm(
                total=total, desc=label, unit=unit, initial=initial, dynamic_ncols=True
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int = 1, note: str | None = None) -> None:
        """Count ``count`` more as done; ``note`` replaces the text behind the counts."""
        self.done += count
        self._note = self._note if note is None else note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._reported >= self.interval:
            self._report()

    def close(self) -> None:
        """End the bar, or write the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self.done > self.initial:
            self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        if self._quiet:
            return
        seconds = self._reported - self._started
        rate = (self.done - self.initial) / max(seconds, 1e-9)
        remaining = (self.total - self.done) / rate if rate > 0 else float("inf")
        note = f", {self._note}" if self._note else ""
        LOG.info(
            "%s: %d/%d %ss, %.3g %ss/s, %s left%s",
            self.label,
            self.done,
            self.total,
            self.unit,
            rate,
            self.unit,
            duration(remaining),
            note,
        )


def duration(seconds: float) -> str:
    """Seconds as ``1:02:03`` or ``2:03``; ``?`` for infinity."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def logged_to(path: str) -> Iterator[None]:
    """Send a script's messages and errors to a log file; a user's error also to stderr."""
    logging.basicConfig(
        level=logging.INFO, format=FORMAT, datefmt=DATE_FORMAT, filename=path, filemode="w"
    )
    try:
        with system_errors_as_unavailable():
            yield
    except UserError as error:
        LOG.error(error.shown())
        sys.exit(error.shown())
    except Exception:
        LOG.exception("failed")
        raise
