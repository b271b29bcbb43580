"""Grids: a run of an experiment file, varied in some of its keys, as further runs."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

SameRun = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
"""Whether two runs of a file train alike."""


def expand_grids(values: Mapping[str, Any], same: SameRun) -> dict[str, Any]:
    """The content of an experiment file with a run for each cell of its ``grids``.

    A cell that trains as its base run does is that run. The runs of each grid, in order, are noted under ``runs`` of the
    grid, and the new runs name their grid: a file that is expanded comes back as itself.

    Args:
        values: the file's content, every run with all that it inherits.
        same: compares two runs.

    Raises:
        ValueError: naming the key.
    """
    grids, runs = values.get("grids"), values.get("runs")
    if not isinstance(grids, Mapping) or not isinstance(runs, Mapping):
        return dict(values)
    runs, expanded = dict(runs), {}
    for name, grid in grids.items():
        expanded[name] = grid
        vary = grid.get("vary") if isinstance(grid, Mapping) else None
        if not isinstance(vary, Mapping) or grid.get("runs"):
            continue  # said by the validation of types; or expanded already
        if (base := grid.get("run")) not in runs:
            raise ValueError(f"grids.{name}.run: {base!r} is no run (allowed: {', '.join(runs)})")
        if not isinstance(runs[base], Mapping):
            continue
        cells = list(_cells(name, grid, runs[base], vary, same))
        for cell, run in cells:
            if cell is not None and cell in runs:
                raise ValueError(f"grids.{name}: makes a run {cell!r}, which is there already")
            if cell is not None:
                runs[cell] = run
        expanded[name] = {**grid, "runs": tuple(cell or base for cell, _ in cells)}
    return {**values, "runs": runs, "grids": expanded}


def _cells(
    name: str,
    grid: Mapping[str, Any],
    base: Mapping[str, Any],
    vary: Mapping[str, Any],
    same: SameRun,
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Name and content of every cell's run; no name for the base itself."""
    for key, choices in vary.items():
        if not isinstance(choices, list | tuple) or not choices:
            raise ValueError(f"grids.{name}.vary.{key}: {choices!r} is no list of values")
    for cell in product(*vary.values()):
        run = base
        for key, value in zip(vary, cell, strict=True):
            run = _with(run, str(key).split("."), value, f"grids.{name}.vary.{key}")
        if same(run, base):
            yield None, dict(run)
        else:
            yield (
                "-".join([name, *map(_slug, cell)]),
                {**run, "label": _label(name, grid, cell), "grid": name},
            )


def _label(name: str, grid: Mapping[str, Any], cell: tuple[Any, ...]) -> str:
    pattern = grid.get("label")
    if pattern is None:
        return f"{name} = {', '.join(map(_text, cell))}"
    try:
        return str(pattern).format(*("all" if value is None else value for value in cell))
    except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"grids.{name}.label: {pattern!r} does not fit its values ({error!r})"
        ) from None


def _with(part: Any, keys: list[str], value: Any, where: str) -> Any:
    """``part`` with the value of a key below it replaced; a key of a list is a number."""
    first, *rest = keys
    if isinstance(part, list | tuple) and first.isdecimal() and int(first) < len(part):
        number = int(first)
        changed = _with(part[number], rest, value, where) if rest else value
        return (*part[:number], changed, *part[number + 1 :])
    if not isinstance(part, Mapping):
        raise ValueError(f"{where}: {first!r} is no key of what the run says there")
    return {**part, first: _with(part.get(first, {}), rest, value, where) if rest else value}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " to ".join(map(_text, value.values()))
    return "all" if value is None else str(value)


def _slug(value: Any) -> str:
    """A value as a part of a run's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", _text(value))
