"""Images in rows and columns of cells, with names beside the rows and above the columns."""

from collections.abc import Collection, Sequence
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from selftrans.plotting.names import ColumnNames


class ImageGrid:
    """A figure of images; all lengths are in inches, from the upper left corner.

    Args:
        width: of the figure.
        left: room for the rows' names.
        columns: what stands above them.
        rows: number of rows of cells.
        cell: images across and down in a cell.
        breaks: rows that a gap stands before.
        gap: between columns; half of it between rows.
        group_gap: further room before the rows in ``breaks``.
        line: white line around an image.
        below: room below the last row.
    """

    def __init__(
        self,
        width: float,
        left: float,
        columns: ColumnNames,
        rows: int,
        *,
        cell: tuple[int, int] = (1, 1),
        breaks: Collection[int] = (),
        gap: float = 0.07,
        group_gap: float = 0.07,
        line: float = 0.012,
        below: float = 0.0,
    ) -> None:
        self.width, self.left, self.line = width, left, line
        self.gap, self.group_gap = gap, group_gap
        self.across, self.down = cell
        self.breaks = tuple(breaks)
        self.top, count = 0.1 + columns.height, len(columns.texts)
        self.side = (width - left - gap * (count - 1)) / (count * self.across)
        self.height = self._corner(0, rows - 1)[1] + self.down * self.side + below
        self.figure = Figure(figsize=(width, self.height))
        self.figure.set_layout_engine("none")
        for number, name in enumerate(columns.texts):
            x = self._corner(number, 0)[0] + self.across * self.side / 2
            options = {"ha": "center", "va": "bottom", **columns.options}
            self.write(x, self.top - 0.05, name, **options)

    def _corner(self, column: int, row: int) -> tuple[float, float]:
        """The upper left corner of a cell."""
        x = self.left + column * (self.across * self.side + self.gap)
        groups = sum(start <= row for start in self.breaks)
        y = self.top + row * (self.down * self.side + self.gap / 2) + groups * self.group_gap
        return x, y

    def write(self, x: float, y: float, text: str, **options: Any) -> None:
        """Text at (x, y)."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **{"fontsize": 6.5, **options})

    def name_rows(self, first: int, count: int, text: str, x: float, **options: Any) -> None:
        """Text beside the middle of some rows."""
        bottom = self._corner(0, first + count - 1)[1] + self.down * self.side
        self.write(x, (self._corner(0, first)[1] + bottom) / 2, text, va="center", **options)

    def show(self, column: int, row: int, images: Sequence[NDArray[Any]]) -> None:
        """Images in one cell, line by line."""
        left, top = self._corner(column, row)
        side = self.side - 2 * self.line
        for number, image in enumerate(images):
            x = left + number % self.across * self.side + self.line
            y = top + number // self.across * self.side + self.line
            axis = self.figure.add_axes(
                (
                    x / self.width,
                    1 - (y + side) / self.height,
                    side / self.width,
                    side / self.height,
                )
            )
            axis.imshow(image, interpolation="nearest", aspect="auto")
            axis.set_axis_off()
