"""What is wrong with a file: one line for each problem, with the key as the user wrote it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from selftrans.config import defaults
from selftrans.config.alignment import AlignmentConfig, method_class
from selftrans.config.base import ConfigModel, Name
from selftrans.runtime.errors import ConfigError, shortened

KEY_LETTERS, LINE_LETTERS = 100, 2000
"""Of a key and of a message: what is longer is no key, and nobody reads such a line."""
Keys = tuple[str | int, ...]
M = TypeVar("M", bound=ConfigModel)


class Problem(NamedTuple):
    """What is wrong with the value of a key."""

    keys: Keys
    message: str


class Layer(NamedTuple):
    """One file of those that an experiment is made of."""

    label: str
    values: Mapping[str, Any]


class Source:
    """Where the values of an experiment come from: its files, and what was expanded from what.

    Args:
        layers: the files, the one that was named first, then what it extends.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.origins: dict[Keys, Keys] = {}
        """Keys that an expansion made, and the keys that they come from."""

    def error(self, problems: Iterable[Problem]) -> ConfigError:
        """All problems, a line for each key, located in the user's own files."""
        lines: dict[str, str] = {}
        for problem in problems:
            keys, layer = self._locate(problem.keys)
            key = ".".join(shortened(str(part), KEY_LETTERS) for part in keys)
            location = ": ".join(filter(None, (layer.label, key)))
            lines.setdefault(location, f"{location}: {shortened(problem.message, LINE_LETTERS)}")
        return ConfigError("\n".join(lines.values()))

    def _locate(self, keys: Keys) -> tuple[Keys, Layer]:
        """The keys as they are written, and the file that they are written in."""
        while True:
            for layer in self.layers:
                if _depth(layer.values, keys) == len(keys):
                    return keys, layer
            made = max((origin for origin in self.origins if keys[: len(origin)] == origin),
                       key=len, default=None)  # fmt: skip
            if made is None:  # a key that is missing: the file that has the most of its parents
                return keys, max(self.layers, key=lambda layer: _depth(layer.values, keys))
            keys = (*self.origins[made], *keys[len(made) :])


def _depth(values: Any, keys: Sequence[Any]) -> int:
    """How many of the keys lead somewhere."""
    for depth, key in enumerate(keys):
        if isinstance(values, Mapping):
            exists = key in values
        else:
            is_index = isinstance(values, list | tuple) and isinstance(key, int)
            exists = is_index and key < len(values)
        if not exists:
            return depth
        values = values[key]
    return len(keys)


def validated(
    model: type[M], values: Mapping[str, Any], where: str, version: int = defaults.VERSION
) -> M:
    """Check ``values`` against ``model``.

    Args:
        model: the model.
        values: what a file or an option says.
        where: what the values are called in messages.
        version: of the defaults that keys which are not given have.

    Raises:
        ConfigError: a line for each key that is wrong: what was found and what is allowed.
    """
    checked = check(model, values, version)
    if isinstance(checked, list):
        raise Source([Layer(where, values)]).error(checked)
    return checked


def check(model: type[M], values: Mapping[str, Any], version: int) -> M | list[Problem]:
    """The model, or what is wrong with its values."""
    values = with_tuples(values)
    try:  # strict: no "5" for 5, no true for 1
        return model.model_validate(values, strict=True, context={"defaults": version})
    except ValidationError as error:
        problems = [_explain(problem, values, model) for problem in error.errors()]
    # One line for each key: a union reports a value once for each of its members, and a sequence
    # whose items are wrong is also too short.
    by_key = {problem.keys: problem for problem in reversed(problems)}
    parents = {problem.keys[:depth] for problem in problems for depth in range(len(problem.keys))}
    return [
        problem
        for problem in reversed(by_key.values())
        if not (problem.message.startswith("tuple should have") and problem.keys in parents)
    ]


def with_tuples(value: Any) -> Any:
    """YAML's lists as tuples, which strict validation wants."""
    if isinstance(value, Mapping):
        return {key: with_tuples(item) for key, item in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list | tuple) else value


def _explain(problem: Any, values: Any, model: type[ConfigModel]) -> Problem:
    """One problem of pydantic's in our words."""
    keys = tuple(_written_keys(problem, values))
    message = problem["msg"].removeprefix("Value error, ")
    match problem["type"]:
        case "extra_forbidden":
            key, allowed = str(keys[-1]), _allowed_keys(model, values, keys[:-1])
            near = get_close_matches(key, allowed, 1)
            message = "unknown key" + (f" (nearest: {near[0]})" if near else "")
            if (renamed := defaults.RENAMED.get(key)) in allowed:
                message = f"unknown key (its name is {renamed} now)"
        case "missing":
            message = "is missing"
        case "value_error":  # our own: `key.below: what is wrong`
            head, _, rest = message.partition(": ")
            if rest and not set(head) & set(" '\"["):
                keys, message = (*keys, *head.split(".")), rest
        case "union_tag_invalid" | "union_tag_not_found":
            context = problem["ctx"]
            keys = (*keys, context["discriminator"].strip("'"))
            message = "is missing"
            if "tag" in context:
                message = f"{context['tag']!r} is unknown (allowed: {context['expected_tags']})"
        case _:
            found = shortened(repr(problem["input"]))
            message = f"{message[0].lower()}{message[1:]}, found {found}"
    return Problem(keys, message)


def _written_keys(problem: Any, values: Any) -> Iterator[str | int]:
    """A problem's location as keys of the file.

    What pydantic adds for the chosen member of a union is no level of the file. It is told by
    walking through the file's own values, since users may give a run the name of a union's member.
    """
    *parents, last = problem["loc"] or (None,)
    for part in parents:
        if _depth(values, (part,)):
            yield part
            values = values[part]
    is_key = problem["type"] == "missing" or isinstance(last, int) or bool(_depth(values, (last,)))
    if last is not None and is_key:
        yield last


def _allowed_keys(model: type[ConfigModel], values: Any, keys: Keys) -> list[str]:
    """The keys that are known where a location leads to."""
    candidates: list[Any] = [model]
    for key in keys:
        values = values[key]
        annotations = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, ConfigModel):
                field = candidate.model_fields.get(str(key))
                annotations += [field.annotation] if field else []
            else:  # a mapping or a sequence: what it holds
                annotations += [get_args(candidate)[-1 if get_origin(candidate) is dict else 0]]
        candidates = [part for annotation in annotations for part in _parts(annotation)]
        candidates = [_chosen(part, values) for part in candidates if _may_be(part, values)]
    models = [part for part in candidates if isinstance(part, type)]
    return [key for part in models for key in getattr(part, "model_fields", ())]


def _parts(annotation: Any) -> Iterator[Any]:
    """The models and containers that an annotation allows."""
    origin = get_origin(annotation)
    if origin in (dict, tuple) or (isinstance(annotation, type) and origin is None):
        yield annotation
    else:  # a union, or something annotated
        for part in get_args(annotation):
            if not isinstance(part, str):
                yield from _parts(part)


def _chosen(part: Any, values: Any) -> Any:
    """The method's own keys, where a part may be any method."""
    if part is AlignmentConfig and isinstance(values, Mapping) and "method" in values:
        with suppress(ValueError):
            return method_class(str(values["method"]))
    return part


def _may_be(part: Any, values: Any) -> bool:
    """Whether a model is the member of a union that the values name by their kind or method."""
    if not (isinstance(part, type) and issubclass(part, ConfigModel)):
        return True
    for key in ("kind", "method"):
        field = part.model_fields.get(key)
        choices = get_args(field.annotation) if field else ()
        if choices and isinstance(values, Mapping) and values.get(key) not in choices:
            return False
    return True


def check_name(name: str) -> None:
    """Refuse what is no name of an experiment or of data.

    Raises:
        ConfigError: in one line, what is allowed.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ConfigError(
            f"--name: {shortened(repr(name))} is no name (allowed: letters,"
            " digits, and . _ - behind the first one)"
        ) from None
