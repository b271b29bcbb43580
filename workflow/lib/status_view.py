"""The state of runs as a table, as JSON, and in a terminal that redraws."""

import json
import sys
import time
from bisect import bisect_right
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from selftrans.runtime.logs import duration
from workflow.lib.status import RunStatus, State, collect, seconds_left

COLOURS: dict[State, str] = {
    "finished": "green", "training": "cyan", "waiting": "yellow", "failed": "red",
    "stopped": "magenta", "not started": "dim",
}  # fmt: skip
URGENCY: tuple[State, ...] = (
    "training", "failed", "waiting", "stopped", "not started", "finished",
)  # fmt: skip
"""Which rows a terminal shows first."""
REDRAW_SECONDS = 5.0
FILE_WIDTH = 160  # of a table that goes to a file or a pipe


def table_of(rows: list[RunStatus]) -> Table:
    """The rows, narrow enough for a terminal of 100 columns."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    numbers = ("seed", "step", "loss", "images\nper s", "saved ago\nheard ago", "left", "FID")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    before = None
    for row in rows:
        if row.experiment != before:
            table.add_section()
            table.add_row(Text(row.experiment, "bold"))
        before = row.experiment
        table.add_row(
            row.run,
            str(row.seed),
            _step(row),
            "" if row.loss is None else f"{row.loss:.4f}",
            "" if row.images_per_second is None else f"{row.images_per_second:,.0f}",
            _ages(row),
            "" if row.next_checkpoint is None else _left(row.seconds_left),
            "" if row.fid is None else f"{row.fid:.2f} at {row.fid_step:,}",
            _state(row),
        )
    return table


def _step(row: RunStatus) -> str:
    step = f"{row.step:,}/{row.steps:,}"
    begun = row.step or row.state == "training"
    return f"{step}\nnext {row.next_checkpoint:,}" if begun and row.next_checkpoint else step


def _ages(row: RunStatus) -> str:
    """Since the last save and, below, since its owner was last heard of."""
    saved = "" if row.saved_age is None else duration(row.saved_age)
    return saved if row.heartbeat_age is None else f"{saved}\n{duration(row.heartbeat_age)}"


def _state(row: RunStatus) -> Text:
    """The state, with who trains it, what it waits for, or why it failed."""
    more = row.owner or row.note
    return Text.assemble((row.state, COLOURS[row.state]), f" {more}" if more else "")


def ends_of(rows: list[RunStatus]) -> Text:
    """When the trainings of each experiment end."""
    ends = (f"{name} {_end(left)}" for name, left in seconds_left(rows).items())
    return Text(f"trainings end: {', '.join(ends)}")


def json_of(rows: list[RunStatus]) -> str:
    """The rows for programs, each with the seconds until its experiment's last training ends."""
    left = seconds_left(rows)
    return json.dumps(
        [{**asdict(row), "experiment_seconds_left": left[row.experiment]} for row in rows], indent=2
    )


def fitting(rows: list[RunStatus], console: Console) -> Group:
    """What of the rows a terminal has lines for, the rest as counts, and when all of it ends.

    A redraw that is higher than the terminal would lose its last lines.
    """
    by_urgency = sorted(rows, key=lambda row: URGENCY.index(row.state))

    def view(count: int) -> Group:
        shown, hidden = by_urgency[:count], by_urgency[count:]
        table = table_of([row for row in rows if row in shown])
        if not hidden:
            return Group(table, ends_of(rows))
        counts = Counter(row.state for row in hidden)
        more = ", ".join(f"{number} {state}" for state, number in counts.items())
        return Group(table, Text(f"not shown: {more}"), ends_of(rows))

    def height(count: int) -> int:
        return len(console.render_lines(view(count)))

    counts = range(1, min(len(rows), console.height) + 1)
    return view(bisect_right(counts, console.height, key=height))


def _left(seconds: float | None) -> str:
    return "?" if seconds is None else duration(seconds)


def _end(seconds: float | None) -> str:
    if seconds is None:
        return "at an unknown time (nothing has trained yet)"
    if not seconds:
        return "have ended"
    end = datetime.now().astimezone() + timedelta(seconds=seconds)
    return f"in {duration(seconds)}, {end:%a %H:%M}"


def show(root: Path, *, as_json: bool = False, watch: bool = False) -> None:
    """Print how the runs are doing.

    Args:
        root: the folder that ``results/`` lies in.
        as_json: a row for each run and seed, for programs.
        watch: redraw, as high as the terminal, until Ctrl-C.
    """
    if as_json:
        print(json_of(collect(root)))
        return
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    if watch:
        redraw(root, console)
    else:
        rows = collect(root)
        console.print(table_of(rows), ends_of(rows), sep="\n")


def redraw(root: Path, console: Console) -> None:
    """Print it again and again in the same place, until Ctrl-C."""
    with (
        suppress(KeyboardInterrupt),
        Live(fitting(collect(root), console), console=console, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(REDRAW_SECONDS)
            live.update(fitting(collect(root), console), refresh=True)
