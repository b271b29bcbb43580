"""Names beside the cells of a grid, fitted into their room: in lines, smaller, or upright."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from matplotlib.textpath import TextPath

from selftrans.plotting.style import plain
from selftrans.runtime.text import filled

SIZES = (6.5, 5.8)
"""Of names, in points: the usual one, and one for names that need it."""
LINES, LINE = 3, 0.11
"""Lines of a name at most, and the height of one of the usual size in inches."""
CAPTION, CAPTION_LINES, CAPTION_SIZES = 40, 14, (6.5, 5.8, 5.0)
"""Characters beyond which a name is a caption, its lines at most, and its sizes."""
UPRIGHT = 0.95
"""Length of an upright name at most, in inches."""
SHARE = 0.88
"""Of a column's width, that a name may take: neighbours must not read as one line."""


@dataclass(frozen=True)
class ColumnNames:
    """What stands above the columns of a grid."""

    texts: Sequence[str]
    height: float
    """Room for them in inches."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the text."""

    @classmethod
    def as_written(cls, texts: Sequence[str]) -> "ColumnNames":
        """Names that fit as they are."""
        return cls(texts, LINE * max(text.count("\n") + 1 for text in texts))


def fitted_names(names: Sequence[str], room: float) -> ColumnNames:
    """Names in columns of a width in inches: in up to three lines, or else upright and shortened.

    Captions may have more lines. All names of a figure are treated alike.
    """
    captions = max(map(len, names)) > CAPTION
    most, sizes = (CAPTION_LINES, CAPTION_SIZES) if captions else (LINES, SIZES)
    width = SHARE * room
    for size in sizes:
        lines = [_lines(name, width, size) for name in names]
        if all(
            len(of_name) <= most and max(width_of(line, size) for line in of_name) <= width
            for of_name in lines
        ):
            texts = [plain("\n".join(of_name)) for of_name in lines]
            height = LINE * size / SIZES[0] * max(map(len, lines))
            return ColumnNames(texts, height, {"fontsize": size})
    size = min(SIZES[0], 0.85 * room * 72)
    short = [shortened_to(name, UPRIGHT, size) for name in names]
    height = 1.05 * max(width_of(name, size) for name in short)  # hinting makes letters wider
    return ColumnNames(list(map(plain, short)), height, {"fontsize": size, "rotation": 90})


def _lines(name: str, room: float, size: float) -> list[str]:
    """A name broken between its words into lines of a length in inches, if its words allow it."""
    return filled(name, lambda line: width_of(line, size) <= room) or [name]


def shortened_to(name: str, room: float, size: float) -> str:
    """A name of a length in inches at most, with an ellipsis where it was cut."""
    if width_of(name, size) <= room:
        return name
    cut = range(len(name))
    kept = bisect(cut, room, key=lambda end: width_of(f"{name[:end].rstrip()}…", size)) - 1
    return f"{name[: max(kept, 0)].rstrip()}…"


@cache
def width_of(text: str, size: float) -> float:
    """Width of a line of text in inches."""
    path = TextPath((0, 0), text.replace("$", "S"), size=size)
    return float(path.get_extents().width) / 72 if len(path.vertices) else 0.0
