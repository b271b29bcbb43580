"""Grids: a run of an experiment file, varied in some of its keys, as further runs."""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any


def expand_grids(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an experiment file with a run for each cell of its ``grids``.

    A cell that says what its base run says already is that run. The runs of each grid, in order, are noted under ``runs``
    of the grid, and the new runs name their grid: a file that is expanded comes back as itself.

    Args:
        values: the file's content, every run with all that it inherits.

    Raises:
        ValueError: naming the key.
    """
    grids, runs = values.get("grids"), values.get("runs")
    if not isinstance(grids, Mapping) or not isinstance(runs, Mapping):
        return dict(values)
    runs, expanded = dict(runs), {}
    for name, grid in grids.items():
        expanded[name] = grid
        if not isinstance(grid, Mapping) or not isinstance(vary := grid.get("vary"), Mapping):
            continue  # said by the validation of types
        if (base := grid.get("run")) not in runs:
            raise ValueError(f"grids.{name}.run: {base!r} is no run (allowed: {', '.join(runs)})")
        cells = list(_cells(name, grid, runs[base], vary))
        for cell, run in cells:
            if cell is None or runs.get(cell, {}).get("grid") == name:
                continue
            if cell in runs:
                raise ValueError(f"grids.{name}: makes a run {cell!r}, which is there already")
            runs[cell] = run
        expanded[name] = {**grid, "runs": tuple(cell or base for cell, _ in cells)}
    return {**values, "runs": runs, "grids": expanded}


def _cells(
    name: str, grid: Mapping[str, Any], base: Mapping[str, Any], vary: Mapping[str, Any]
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Name and content of every cell's run; no name for the base itself."""
    for key, choices in vary.items():
        if not isinstance(choices, list | tuple) or not choices:
            raise ValueError(f"grids.{name}.vary.{key}: {choices!r} is no list of values")
    for cell in product(*vary.values()):
        run = dict(base)
        for key, value in zip(vary, cell, strict=True):
            run = _with(run, key.split("."), value, f"grids.{name}.vary.{key}")
        if _plain(run) == _plain(base):
            yield None, run
            continue
        label = grid.get("label") or f"{name} = {', '.join(map(_text, cell))}"
        try:
            run["label"] = str(label).format(*cell)
        except (IndexError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"grids.{name}.label: {label!r} does not fit its values ({error!r})") from None
        yield "-".join([name, *map(_slug, cell)]), {**run, "grid": name}


def _with(part: Mapping[str, Any], keys: list[str], value: Any, where: str) -> dict[str, Any]:
    """``part`` with the value of a key below it replaced."""
    first, *rest = keys
    if not rest:
        return {**part, first: value}
    below = part.get(first, {})
    if not isinstance(below, Mapping):
        raise ValueError(f"{where}: {first!r} of the run holds no keys")
    return {**part, first: _with(below, rest, value, where)}


def _plain(value: Any) -> Any:
    """Lists and tuples alike."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " to ".join(map(_text, value.values()))
    return "none" if value is None else str(value)


def _slug(value: Any) -> str:
    """A value as a part of a run's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", _text(value)).strip("-")
