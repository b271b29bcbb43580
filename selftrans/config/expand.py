"""From what users write to what the models check: pure functions on plain mappings.

Inheritance between files and from an experiment to its runs, named sizes, imported checkpoints,
grids of runs and sweeps over the guidance scale are written out here, before any model sees them.
A file that is written out comes back as itself.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from math import isfinite, prod
from string import Formatter
from typing import Any

from selftrans.config.errors import Keys, Problem
from selftrans.config.model import PRESETS, expand_preset
from selftrans.config.tuning import Tuned, TuningConfig, applicable, taught_by_trial, trial_name

SameRun = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
"""Whether two runs of a file train alike."""
MAX_CELLS = 1000
"""Of one grid: nobody trains more, and each is a run with its jobs."""
MAX_WIDTH = 100
"""Letters of a formatted value in a label."""
_NUMBERS_OF_A_PRESET = frozenset(next(iter(PRESETS.values())))


def merged(base: Any, changes: Any) -> Any:
    """``base`` with ``changes`` over it: mappings merge key by key, anything else replaces.

    So does a mapping of another kind: another method, source or autoencoder has other keys.
    """
    if not (isinstance(base, Mapping) and isinstance(changes, Mapping)):
        return changes
    for key in ("kind", "method"):
        if key in base and key in changes and base[key] != changes[key]:
            return changes
    if changes.get("preset"):  # a named size stands for its numbers: the base's do not override it
        base = {key: value for key, value in base.items() if key not in _NUMBERS_OF_A_PRESET}
    if "path" in changes:  # another autoencoder decodes by itself, if it does not say otherwise
        base = {key: value for key, value in base.items() if key != "decoder"}
    changed = {
        key: merged(base[key], value) if key in base else value for key, value in changes.items()
    }
    return {**base, **changed}


class _LabelFormatter(Formatter):
    """Formats a grid's label: values and their keys, in fields of sensible width."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        """A value or a key of it; never an attribute."""
        if "." in re.sub(r"\[[^]]*\]", "", field_name):
            raise ValueError(f"{{{field_name}}} is an attribute")
        return super().get_field(field_name, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> Any:
        """A value as its format says, unless that is wider than any figure."""
        if any(int(number) > MAX_WIDTH for number in re.findall(r"\d+", format_spec)):
            raise ValueError(f"{format_spec!r} is too wide")
        return super().format_field(value, format_spec)


class Expansion:
    """The values of an experiment, written out.

    Args:
        values: the content of a file, with all that it inherits from other files.
        same: compares two runs, for cells of a grid that are their base.
        tuning: what the arms are tuned in, if they are.
        tuned: what a tuning found for them, if they follow one.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        same: SameRun,
        tuning: TuningConfig | None = None,
        tuned: Tuned | None = None,
    ) -> None:
        self.values = dict(values)
        self.problems: list[Problem] = []
        self.origins: dict[Keys, Keys] = {}
        """Keys that were made here, and the keys of the file that they come from."""
        self._inherit()
        self._import_checkpoints()
        if tuned is not None:
            self._apply_tuned(tuned)
        if tuning is not None:
            self._expand_trials(tuning)
        self._expand_grids(same)
        self._expand_sweeps()

    def _inherit(self) -> None:
        """Every run has the experiment's backbone and recipe, but for what it changes."""
        if isinstance(model := self.values.get("model"), Mapping):
            self.values["model"] = expand_preset(model)
        if not isinstance(runs := self.values.get("runs"), Mapping):
            return
        inherited = {}
        for name, run in runs.items():
            inherited[name] = run
            if not isinstance(run, Mapping):
                continue
            inherited[name] = dict(run)
            for key in ("model", "training"):
                base = self.values.get(key, {})
                is_mapping = isinstance(base, Mapping)  # anything else is reported by the model
                inherited[name][key] = merged(base, run.get(key, {})) if is_mapping else base
                self.origins["runs", name, key] = (key,)
            if isinstance(model := inherited[name]["model"], Mapping):
                inherited[name]["model"] = expand_preset(model)
        self.values["runs"] = inherited

    def _import_checkpoints(self) -> None:
        """An imported run has the one checkpoint that it is."""
        if not isinstance(runs := self.values.get("runs"), Mapping):
            return
        for run in runs.values():
            imported = run.get("imported") if isinstance(run, Mapping) else None
            step = imported.get("step") if isinstance(imported, Mapping) else None
            if isinstance(step, int) and isinstance(run["training"], Mapping):
                only = {"checkpoints": (step,), "log_every": 1, "held_out": 0}
                run["training"] = {**run["training"], **only}

    def _arms(self) -> dict[str, Mapping[str, Any]]:
        """The runs that are trained here and that no grid made."""
        runs = self.values.get("runs")
        found = runs.items() if isinstance(runs, Mapping) else ()
        return {
            name: run
            for name, run in found
            if isinstance(run, Mapping) and not run.get("imported") and not run.get("grid")
        }

    def _apply_tuned(self, tuned: Tuned) -> None:
        """Every arm has the values that were found for it; the seeds are others."""
        for name, arm in self._arms().items():
            if name not in tuned.runs:
                allowed = ", ".join(tuned.runs)
                message = f"{tuned.experiment!r} has not tuned run {name!r} (allowed: {allowed})"
                self.problems.append(Problem(("tuned",), message))
                continue
            run: Any = arm
            for key, value in tuned.runs[name].values.items():
                run, _ = _with(run, key.split("."), value)
            self.values["runs"] = {**self.values["runs"], name: run}
        seeds = self.values.get("seeds", (0,))
        for seed in seeds if isinstance(seeds, list | tuple) else ():
            if seed in tuned.seeds:
                message = f"{seed} was tuned on by {tuned.experiment!r} (allowed: any other)"
                self.problems.append(Problem(("seeds",), message))

    def _expand_trials(self, tuning: TuningConfig) -> None:
        """A grid of each arm with its trials, whose teachers are trials of the same number."""
        runs, grids = dict(self.values.get("runs") or {}), dict(self.values.get("grids") or {})
        cells = tuning.sampled()
        for name, arm in self._arms().items():
            names = tuple(trial_name(name, number) for number in range(tuning.trials))
            if name in grids:
                of_arm = grids[name] if isinstance(grids[name], Mapping) else {}
                if tuple(of_arm.get("runs") or ()) != names:  # else it is written out already
                    message = "is the grid of an arm's trials (allowed: another name)"
                    self.problems.append(Problem(("grids", name), message))
                continue
            if taken := [trial for trial in names[1:] if trial in runs]:
                message = "is the name of a trial (allowed: another name)"
                self.problems.append(Problem(("runs", taken[0]), message))
                continue
            aligned = not _is_none(arm.get("alignment"))
            for number, cell in enumerate(cells, start=1):
                trial: Any = dict(arm)
                if "alignment" in trial:
                    trial["alignment"] = taught_by_trial(trial["alignment"], number)
                for key, value in applicable(cell, aligned=aligned).items():
                    trial, wrong = _with(trial, key.split("."), value)
                    if wrong is not None:
                        message = f"{wrong!r} is not a key of what run {name!r} has there"
                        self.problems.append(Problem(("tuning", "ranges", key), message))
                        return
                label = f"{arm.get('label') or name}, trial {number}"
                runs[new := trial_name(name, number)] = {**trial, "label": label, "grid": name}
                self.origins["runs", new] = ("runs", name)
            varied = applicable(cells[0], aligned=aligned)
            vary = {key: tuple(cell[key] for cell in cells) for key in varied}
            grids[name] = {"run": name, "vary": vary, "runs": names}
        self.values |= {"runs": runs, "grids": grids}

    def _expand_grids(self, same: SameRun) -> None:
        """A run for each cell of every grid.

        A cell that trains as its base run does is that run. The runs of each grid, in order, are
        noted under ``runs`` of the grid, and the new runs name their grid.
        """
        grids, runs = self.values.get("grids"), self.values.get("runs")
        if not isinstance(grids, Mapping) or not isinstance(runs, Mapping):
            return
        runs, expanded = dict(runs), {}
        for name, grid in grids.items():
            expanded[name] = grid
            vary = grid.get("vary") if isinstance(grid, Mapping) else None
            if not isinstance(vary, Mapping) or grid.get("runs"):
                continue  # reported by the model; or written out already
            base = grid.get("run")
            if not isinstance(base, str) or base not in runs:
                message = f"{base!r} is not a run (allowed: {', '.join(runs)})"
                self.problems.append(Problem(("grids", name, "run"), message))
            elif isinstance(runs[base], Mapping):
                cells = self._cells(str(name), grid, runs, same)
                expanded[name] = {**grid, "runs": cells}
        self.values |= {"runs": runs, "grids": expanded}

    def _cells(
        self, name: str, grid: Mapping[str, Any], runs: dict[str, Any], same: SameRun
    ) -> tuple[str, ...]:
        """The names of a grid's runs; those that are new are added to ``runs``."""
        vary, base, at = grid["vary"], runs[grid["run"]], ("grids", name)
        for key, choices in vary.items():
            if not isinstance(choices, list | tuple) or not choices:
                message = f"{choices!r} is not a list of values"
                self.problems.append(Problem((*at, "vary", key), message))
                return ()
        if (count := prod(map(len, vary.values()))) > MAX_CELLS:
            message = f"makes {count:,} runs (allowed: {MAX_CELLS:,})"
            self.problems.append(Problem((*at, "vary"), message))
            return ()
        names = []
        for cell in product(*vary.values()):
            run: Any = base
            for key, value in zip(vary, cell, strict=True):
                # A part of a run merges, as the run's own keys do.
                over = merged(run[key], value) if key in run else value
                run, wrong = _with(run, str(key).split("."), over)
                if wrong is not None:
                    message = f"{wrong!r} is not a key of what the run has there"
                    self.problems.append(Problem((*at, "vary", key), message))
                    return ()
            if same(run, base):
                names.append(grid["run"])
                continue
            names.append(new := "-".join([name, *map(_slug, cell)]))
            if new in runs:
                message = f"makes a run {new!r}, which exists already"
                self.problems.append(Problem(at, message))
                continue
            label = self._label(name, grid, cell)
            runs[new] = {**run, "label": label, "grid": name}
            self.origins["runs", new] = ("runs", grid["run"])
            for key in vary:
                self.origins[("runs", new, *str(key).split("."))] = (*at, "vary", key)
        return tuple(names)

    def _label(self, name: str, grid: Mapping[str, Any], cell: tuple[Any, ...]) -> str:
        label = f"{name} = {', '.join(map(_text, cell))}"
        if (pattern := grid.get("label")) is None:
            return label
        try:
            shown = ("all" if value is None else value for value in cell)
            return _LabelFormatter().format(str(pattern), *shown)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
            message = f"{pattern!r} does not fit its values ({error!r})"
            self.problems.append(Problem(("grids", name, "label"), message))
            return label

    def _expand_sweeps(self) -> None:
        """A sampler for each scale of those that sweep over a list of them."""
        evaluation = self.values.get("evaluation")
        samplers = evaluation.get("samplers") if isinstance(evaluation, Mapping) else None
        if not isinstance(evaluation, Mapping) or not isinstance(samplers, Mapping):
            return
        expanded = {}
        for name, sampler in samplers.items():
            guidance = sampler.get("guidance") if isinstance(sampler, Mapping) else None
            scales = guidance.get("scale") if isinstance(guidance, Mapping) else None
            if not isinstance(guidance, Mapping) or not isinstance(scales, list | tuple):
                expanded[name] = sampler
                continue
            keys: Keys = ("evaluation", "samplers", name, "guidance", "scale")
            if (message := _sweep_problem(name, scales, samplers)) is not None:
                self.problems.append(Problem(keys, message))
                scales = (1.0,)  # so that the rest of the sampler is checked
            for scale in scales:
                new = f"{name}-scale{scale}"
                expanded[new] = {**sampler, "guidance": {**guidance, "scale": scale}, "sweep": name}
                self.origins["evaluation", "samplers", new] = ("evaluation", "samplers", name)
        self.values["evaluation"] = {**evaluation, "samplers": expanded}


def _sweep_problem(name: str, scales: Any, samplers: Mapping[str, Any]) -> str | None:
    if not scales or not all(isinstance(s, int | float) and isfinite(s) for s in scales):
        return f"{list(scales)} is not a list of numbers"
    if len(set(scales)) != len(scales):
        return f"{list(scales)} has duplicates"
    for scale in scales:
        if (new := f"{name}-scale{scale}") in samplers:
            return f"{scale} makes a sampler {new!r}, which exists already"
    return None


def _with(part: Any, keys: list[str], value: Any) -> tuple[Any, str | None]:
    """``part`` with a value over that of a key below it, or the key that does not exist.

    A key of a list is a number.
    """
    first, *rest = keys
    if isinstance(part, list | tuple) and first.isdecimal() and int(first) < len(part):
        number = int(first)
        changed, wrong = _with(part[number], rest, value) if rest else (value, None)
        return (*part[:number], changed, *part[number + 1 :]), wrong
    if not isinstance(part, Mapping):
        return part, first
    changed, wrong = _with(part.get(first, {}), rest, value) if rest else (value, None)
    return {**part, first: changed}, wrong


def _is_none(alignment: Any) -> bool:
    """Whether a run has no alignment."""
    return alignment is None or (
        isinstance(alignment, Mapping) and alignment.get("method") in (None, "none")
    )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " to ".join(map(_text, value.values()))
    return "all" if value is None else str(value)


def _slug(value: Any) -> str:
    """A value as a part of a run's name; of a mapping, what it holds itself, if it does."""
    if isinstance(value, Mapping):
        value = {k: v for k, v in value.items() if not isinstance(v, Mapping)} or value
    return re.sub(r"[^A-Za-z0-9._-]+", "-", _text(value))


def without_left_out(
    values: Mapping[str, Any], extended: Mapping[str, Any] | None
) -> tuple[dict[str, Any], Iterator[Problem]]:
    """The values without the runs that null leaves out; and those that there are not to leave out.

    Args:
        values: the merged content of a file.
        extended: that of the file that it extends.
    """
    if not isinstance(runs := values.get("runs"), Mapping):
        return dict(values), iter(())
    kept = {name: run for name, run in runs.items() if run is not None}
    inherited = (extended or {}).get("runs") or {}
    message = "null leaves out a run of the experiment that is extended, which has no such run"
    wrong = [name for name in runs if name not in kept and name not in inherited]
    return {**values, "runs": kept}, (Problem(("runs", name), message) for name in wrong)
