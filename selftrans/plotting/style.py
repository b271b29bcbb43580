"""The style of every figure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from selftrans.runtime.files import atomic_path

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its faint yellow.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
GREY = "#777777"
"""Of what belongs to no run."""
LEGEND_LETTERS, HANDLE_LETTERS = 90, 7
"""Of a legend's line at a figure's usual width; a handle and its space are as wide as some."""
USUAL_WIDTH = 5.5
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<")

mpl.rcParams.update(
    {
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "legend.fontsize": 7.5,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "axes.grid": True,
        "grid.linewidth": 0.4,
        "grid.color": "#dddddd",
        "lines.linewidth": 1.4,
        "lines.markersize": 4,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "pdf.fonttype": 42,  # text stays text
        "svg.hashsalt": "selftrans",
    }
)


@dataclass(frozen=True, kw_only=True)
class RunStyle:
    """Colour and marker of a run."""

    label: str
    colour: str
    marker: str


def plain(text: str) -> str:
    """Text of a user's, in which a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def run_styles(labels: Mapping[str, str]) -> dict[str, RunStyle]:
    """Colour and marker of each run, by its index in the experiment."""
    return {
        run: RunStyle(
            label=plain(label),
            colour=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
        )
        for index, (run, label) in enumerate(labels.items())
    }


def legend_columns(names: Sequence[str], width_inches: float = USUAL_WIDTH) -> int:
    """Columns of a legend above a figure: one line of up to four names, else lines of three.

    Fewer where the names are too long for the figure's width.
    """
    letters = LEGEND_LETTERS * width_inches / USUAL_WIDTH
    count = len(names)
    for columns in range(count if count <= 4 else 3, 1, -1):
        rows = -(-count // columns)
        widest = [max(map(len, names[start : start + rows])) for start in range(0, count, rows)]
        if sum(widest) + HANDLE_LETTERS * len(widest) <= letters:
            return columns
    return 1


def save(figure: Figure, paths: Iterable[str | Path], dpi: int) -> None:
    """Write ``figure`` to every path; the suffix is the format.

    Without a date, so that equal figures are equal files.
    """
    for path in map(Path, paths):
        with atomic_path(path) as temporary:
            figure.savefig(
                temporary,
                dpi=dpi,
                metadata={"CreationDate": None} if path.suffix == ".pdf" else None,
            )
