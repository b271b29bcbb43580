"""Experiment and data files: found by name or path, read, inherited, written out, checked."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from selftrans.config import defaults
from selftrans.config.checks import experiment_problems, tuned_problems
from selftrans.config.data import DatasetConfig
from selftrans.config.errors import (
    Layer,
    Problem,
    Source,
    check,
    validated,
    with_tuples,
)
from selftrans.config.expand import Expansion, merged, without_left_out
from selftrans.config.experiment import ExperimentConfig, RunConfig
from selftrans.config.figures import Published
from selftrans.config.tuning import Tuned, TuningConfig
from selftrans.config.user_code import HERE, is_reference, relative_to
from selftrans.runtime.errors import ConfigError, shortened
from selftrans.runtime.files import opened
from selftrans.runtime.seal import KEY, unsealed

EXPERIMENTS = Path("experiments")
DATA_FILES = EXPERIMENTS / "data"
TUNED = EXPERIMENTS / "tuned"
Changes = Mapping[str, Mapping[str, Any]]
"""Changes to data files, by name: where images lie on a machine."""
Recorded = Callable[[str], int | None]
"""The defaults' version of existing results, by an experiment's name, or ``data/NAME``."""


MAX_BYTES = 2**22
MAX_VALUES = 100_000
"""Of one YAML file, aliases written out."""
MAX_NESTING = 100
"""Levels of one YAML file. The C parser follows each by a call, without a limit of its own."""


_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What YAML's constructors raise of a scalar that is no date, number or key."""


class _Loader(yaml.CSafeLoader):
    """YAML in which 1e-4 is a number and a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        merge = "tag:yaml.org,2002:merge"
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    problem=f"duplicate key {key!r}", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: the file is absent, is not YAML, or does not hold a mapping.
    """
    with opened(path) as file:
        content = file.read(MAX_BYTES + 1)
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        text = content.decode()
        _check_nesting(text)
        value = _Loader(text).get_single_data()
        _check_size(value)
    except (yaml.YAMLError, *_REFUSALS) as error:
        raise ConfigError(f"{path}: not YAML ({shortened(str(error))})") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}, allowed is a mapping of keys")
    return value


def parse_value(text: str, where: str) -> Any:
    """A value as a file of ours would hold it: ``2e-4`` is a number, ``[1, 2]`` a list.

    Raises:
        ConfigError: naming ``where``, it is not YAML.
    """
    try:
        _check_nesting(text)
        value = _Loader(text).get_single_data()
        _check_size(value)
    except (yaml.YAMLError, *_REFUSALS) as error:
        raise ConfigError(f"{where}: not YAML ({shortened(str(error))})") from None
    return value


def _check_nesting(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            raise yaml.YAMLError(f"more than {MAX_NESTING} levels of brackets or indentation")


def _check_size(value: Any) -> None:
    """Refuse what a few aliases make endless or far too large, and sets, dates and bytes."""
    sizes: dict[int, int] = {}

    def size(part: Any) -> int:
        if not isinstance(part, dict | list):
            if not isinstance(part, str | int | float | None):
                raise ValueError(f"{part!r} is neither text nor a number (quotes make it text)")
            return 1
        if id(part) not in sizes:
            sizes[id(part)] = MAX_VALUES + 1  # while it is counted: it must not hold itself
            items = part.values() if isinstance(part, dict) else part
            if wrong := [key for key in part if isinstance(part, dict) and type(key) is not str]:
                raise ValueError(f"key {wrong[0]!r} is no text (quotes make it text)")
            sizes[id(part)] = 1 + sum(map(size, items))
        return sizes[id(part)]

    if size(value) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values, or an anchor within itself")


def experiment_path(reference: str | Path, project: Path = HERE) -> Path:
    """The file that ``reference`` means: a path, or a name in ``experiments/`` of the project."""
    return _find(str(reference), project / EXPERIMENTS)


def extended_experiment(reference: str | Path) -> Path | None:
    """The file of the experiment that an experiment extends."""
    path = experiment_path(reference)
    base = read_yaml(path).get("extends")
    return None if base is None else _base_path(path, base, EXPERIMENTS)


def load_experiment(
    reference: str | Path,
    data_changes: Changes | None = None,
    recorded: Recorded | None = None,
    project: Path = HERE,
) -> ExperimentConfig:
    """Read an experiment file and the data file that it names.

    Args:
        reference: the path of an experiment file, or the name of one in ``experiments/``. A file
            may say ``extends: OTHER`` and give only what differs.
        data_changes: changes to data files, by their names.
        recorded: the version of the defaults that keys which are not given have, unless a file
            says it: that of its results, else of those of what it extends, else the newest.
        project: the folder in whose ``experiments/`` names are looked up.

    Raises:
        ConfigError: a line for each problem: the file, the key, what was found, what is allowed.
    """
    path = experiment_path(reference, project)
    layers = _read_layers(path, EXPERIMENTS, project)
    source = Source(layers)
    values: dict[str, Any] = {"name": path.stem}
    extended: dict[str, Any] | None = None
    problems: list[Problem] = []
    for layer in reversed(layers):
        inherited = {key: value for key, value in values.items() if key != "name"}
        for key, other in (("tuning", "tuned"), ("tuned", "tuning")):
            if layer.values.get(key):  # an experiment tunes, or follows what was tuned
                inherited.pop(other, None)
        values, missing = without_left_out(merged(inherited, layer.values), extended)
        values.setdefault("name", path.stem)
        problems += missing
        extended = values
    version = _version(values, source, "", recorded)
    for key in ("data", "prompts"):
        if isinstance(values.get(key), str):
            dataset = load_dataset(values[key], data_changes, recorded, project)
            values[key] = dataset.model_dump()
    figures = values.get("figures")
    if isinstance(figures, dict) and isinstance(published := figures.get("published"), str):
        values["figures"] = {
            **figures,
            "published": _load_published(published, project).model_dump(),
        }
    tuning = check(TuningConfig, values["tuning"], version) if values.get("tuning") else None
    tuned: Tuned | None = None
    if isinstance(values.get("tuned"), str):
        tuned, digest = _load_tuned(values["tuned"], project)
        values["tuned"] = {"experiment": tuned.experiment, "digest": digest}
    expansion = Expansion(
        values,
        lambda run, base: _is_same_run(run, base, version),
        tuning if isinstance(tuning, TuningConfig) else None,
        tuned,
    )
    source.origins = expansion.origins
    experiment = check(ExperimentConfig, {**expansion.values, "defaults": version}, version)
    problems += expansion.problems
    problems += experiment if isinstance(experiment, list) else experiment_problems(experiment)
    if tuned is not None and isinstance(experiment, ExperimentConfig):
        problems += tuned_problems(experiment, tuned)
    if isinstance(experiment, list) or problems:
        raise source.error(problems)
    return experiment


def load_dataset(
    reference: str | Path,
    changes: Changes | None = None,
    recorded: Recorded | None = None,
    project: Path = HERE,
) -> DatasetConfig:
    """Read a data file: a path, or a name in ``experiments/data/``; it, too, may say ``extends``.

    Args:
        reference: path or name.
        changes: changes to data files, by their names.
        recorded, project: as in ``load_experiment``.

    Raises:
        ConfigError: a line for each problem: the file, the key, what was found, what is allowed.
    """
    path = _find(str(reference), project / DATA_FILES)
    layers = _read_layers(path, DATA_FILES, project, changes or {})
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values = merged({key: values[key] for key in values if key != "name"}, layer.values)
    values.setdefault("name", path.stem)
    source = Source(layers)
    version = _version(values, source, "data/", recorded)
    dataset = check(DatasetConfig, {**values, "defaults": version}, version)
    if isinstance(dataset, list):
        raise source.error(dataset)
    return dataset


def _version(
    values: Mapping[str, Any], source: Source, prefix: str, recorded: Recorded | None
) -> int:
    """The version of the defaults that a file is read with.

    Raises:
        ConfigError: the file names a version that does not exist.
    """
    if (chosen := values.get("defaults")) is not None:
        if isinstance(chosen, int) and 1 <= chosen <= defaults.VERSION:
            return chosen
        message = f"{chosen!r} is not a version of the defaults (allowed: 1 to {defaults.VERSION})"
        raise source.error([Problem(("defaults",), message)])
    for layer in source.layers if recorded else ():
        name = layer.values.get("name", Path(layer.label).stem)
        if recorded and (version := recorded(f"{prefix}{name}")) is not None:
            return version
    return defaults.VERSION


def _load_published(reference: str, project: Path) -> Published:
    path = _find(reference, project / EXPERIMENTS / "published")
    return validated(Published, read_yaml(path), str(path))


def _load_tuned(name: str, project: Path) -> tuple[Tuned, str]:
    """What a tuning found, and the seal of its file.

    Raises:
        UserError: its file is absent, was edited, or is of another experiment.
    """
    path = _find(name, project / TUNED)
    found = read_yaml(path)
    try:
        tuned = validated(Tuned, unsealed(found, path, required=True), str(path))
    except TypeError:  # of what JSON cannot hold
        raise ConfigError(f"{path}: not what a tuning wrote") from None
    if tuned.experiment != path.stem:
        raise ConfigError(f"{path}: is what {tuned.experiment!r} found, not {path.stem!r}")
    return tuned, found[KEY]


def _is_same_run(first: Mapping[str, Any], second: Mapping[str, Any], version: int) -> bool:
    """Whether two runs of a file train alike, defaults filled in."""
    named = {"label": None, "grid": None}
    pair = [check(RunConfig, with_tuples({**run, **named}), version) for run in (first, second)]
    return isinstance(pair[0], RunConfig) and pair[0] == pair[1]


def _find(reference: str, directory: Path) -> Path:
    if _is_path(reference) and reference.isprintable():
        return Path(reference)
    known = sorted(file.stem for file in directory.glob("*.yaml"))
    if reference not in known:
        raise ConfigError(
            f"{shortened(repr(reference))} is neither a .yaml file nor a name in {directory}/"
            f" (allowed: {', '.join(known) or 'none'})"
        )
    return directory / f"{reference}.yaml"


def _base_path(path: Path, base: Any, directory: Path) -> Path:
    if not isinstance(base, str) or not base:
        raise ConfigError(
            f"{path}: extends: is {shortened(repr(base))} (allowed: a name, or a path of a file)"
        )
    return path.parent / base if _is_path(base) else _find(str(base), directory)


def _read_layers(
    path: Path,
    directory: Path,
    project: Path,
    changes: Changes | None = None,
    read: tuple[Path, ...] = (),
) -> list[Layer]:
    """A file, its changes, and what it extends, youngest first; its paths are relative to it."""
    real = Path(os.path.realpath(path))
    if real in read:
        raise ConfigError(f"{path}: extends: is circular")
    values = read_yaml(path)
    for key in ("data", "prompts"):
        if _is_path(values.get(key)):
            values[key] = str(path.parent / values[key])
    figures = values.get("figures")
    if isinstance(figures, dict) and _is_path(figures.get("published")):
        figures["published"] = str(path.parent / figures["published"])
    if directory.name == DATA_FILES.name:
        _read_class_names(values, path.parent)
    _locate_user_code(values, path.parent, project)
    base = values.pop("extends", None)
    name = values.get("name", path.stem)
    layers = [Layer(str(path), values)]
    if isinstance(name, str) and name in (changes or {}):
        changed = dict((changes or {})[name])
        _read_class_names(changed, Path())
        layers.insert(0, Layer(f"data: {name}", changed))
    if base is not None:
        base_path = _base_path(path, base, project / directory)
        layers += _read_layers(base_path, directory, project, changes, (*read, real))
    return layers


def _read_class_names(values: dict[str, Any], directory: Path) -> None:
    """Names of classes in a file of their own, a line for each.

    Raises:
        ConfigError: the file is absent or not text.
    """
    if not isinstance(file := values.get("class_names"), str):
        return
    path = directory / file
    with opened(path) as opened_file:
        content = opened_file.read(MAX_BYTES + 1)
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        lines = content.decode("utf-8-sig").splitlines()
    except ValueError as error:
        reason = shortened(str(error))
        raise ConfigError(f"{path}: class_names: not a text file ({reason})") from None
    values["class_names"] = [line.strip() for line in lines if line.strip()]


def _locate_user_code(values: Any, directory: Path, project: Path) -> None:
    """Classes in files of the user's own are found beside the experiment file."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if str(key).rpartition(".")[2] in ("method", "kind") and is_reference(value):
            values[key] = relative_to(directory, value, project)
        elif isinstance(value, dict | list):
            _locate_user_code(value, directory, project)


def _is_path(reference: Any) -> bool:
    return isinstance(reference, str) and reference.endswith((".yaml", ".yml"))
