"""The reference of every file's keys, read from the models that check the files.

A page shows the keys of a root model and of the models below it. A model that several pages reach
stands on the first one, and the others link to it.
"""

import functools
import json
import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from selftrans.config.alignment import METHODS, NoAlignment, method_class
from selftrans.config.base import ConfigModel
from selftrans.config.docstrings import key_docstrings
from selftrans.config.figures import Published
from selftrans.config.schema import OwnBackbone, OwnMethod, dataset_file, experiment_file
from sitebuild.repository import relative
from workflow.lib.settings import WorkflowConfig

Model = type[ConfigModel]
EXPERIMENT, DATA = "configuration/experiment.md", "configuration/data.md"
OWN: dict[Model, str] = {
    OwnMethod: "tutorials/add-a-method.md",
    OwnBackbone: "tutorials/add-a-method.md#a-backbone-of-your-own",
}
"""Where classes of a user's own are explained."""
FILLED = {
    "Experiment.name": "the file's name",
    "Dataset.name": "the file's name",
    "Run.model": "the experiment's",
    "Run.training": "the experiment's",
    "Sra.weight": "by `loss`",
    "Sra.decay": "by `loss`",
    **dict.fromkeys(
        (
            f"{model}.{key}"
            for model in ("BackboneConfig", "MMDiTConfig")
            for key in ("depth", "hidden_size", "num_heads", "patch_size")
        ),
        "by `preset`",
    ),
}
"""Keys that need not be given although their model has no default: what fills them in."""
NAMES = {int: "whole number", float: "number", str: "text", Any: "value", NoneType: "`null`"}
UNREACHED = 10**12
"""A bound that only keeps slips of the finger out; the pages name none above it."""
JSON_NAMES = {"string": "text", "number": "number", "null": "`null`"}


class Section(NamedTuple):
    """A model's place: its page, and where in a file its keys stand."""

    page: str
    prefix: str

    @property
    def anchor(self) -> str:
        """Within the page."""
        return f"keys.{self.prefix}" if self.prefix else "keys"


@functools.cache
def sections() -> dict[Model, Section]:
    """Every model of the files, in the order in which it is shown."""
    found: dict[Model, Section] = {}
    for name in METHODS:
        _collect(found, method_class(name), Section(f"methods/{name}.md", "alignment"))
    _collect(found, NoAlignment, Section("methods/sit.md", "alignment"))
    _collect(found, experiment_file(), Section(EXPERIMENT, ""))
    _collect(found, Published, Section(EXPERIMENT, "published"))
    _collect(found, dataset_file(), Section(DATA, ""))
    _collect(found, WorkflowConfig, Section("configuration/workflow.md", ""))
    return found


def _collect(found: dict[Model, Section], model: Model, section: Section) -> None:
    """The model, then those of its keys."""
    if model in found or model in OWN:
        return
    found[model] = section
    below = [(key, one) for key, field in model.model_fields.items() for one in _models(field)]
    for key, one in below:
        recurring = sum(other is one for _, other in below) > 1
        name = "NAME" if recurring else key
        named = get_origin(_bare(model.model_fields[key].annotation)) is dict
        prefix = ".".join(filter(None, (section.prefix, name, "NAME" if named else "")))
        _collect(found, one, Section(section.page, prefix))


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _models(field: FieldInfo) -> Iterator[Model]:
    """The models in a key's type."""
    if not any(isinstance(one, WithJsonSchema) for one in field.metadata):
        yield from _models_in(field.annotation)


def _models_in(annotation: Any) -> Iterator[Model]:
    if isinstance(annotation, type) and issubclass(annotation, ConfigModel):
        yield annotation
    for one in get_args(annotation):
        yield from _models_in(one)


def reference(page: str) -> str:
    """The models that stand on a page."""
    return "\n\n".join(_section(page, model) for model, at in sections().items() if at.page == page)


def _section(page: str, model: Model) -> str:
    section = sections()[model]
    kind = _kind(model)
    title = f"`{section.prefix}`" if section.prefix else "The file"
    if kind and not page.startswith("methods/"):
        title += f", {kind}"
    anchor = section.anchor + (f".{kind}" if kind else "")
    text = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    names = sorted(
        model.model_fields, key=lambda name: name != "extends"
    )  # what a file begins with
    keys = (_key(page, model, section, name) for name in names)
    return "\n\n".join((f"### {title} {{ #{anchor} }}", text, *keys))


def _key(page: str, model: Model, section: Section, name: str) -> str:
    field = model.model_fields[name]
    kind = _kind(model)
    anchor = ".".join(filter(None, (section.prefix, kind, name)))
    says = " · ".join((_field_type(page, field), _default(page, model, name)))
    meaning = " ".join(key_docstrings(model).get(name, f"Chooses `{kind}`.").split())
    return f"#### `{name}` {{ #{anchor} }}\n\n{says}\n{{ .key }}\n\n{meaning}"


def _kind(model: Model) -> str | None:
    """The word that chooses a model among several."""
    for key in ("method", "kind"):
        if key in model.model_fields:
            words = get_args(model.model_fields[key].annotation)
            return words[0] if len(words) == 1 else None
    return None


def _default(page: str, model: Model, name: str) -> str:
    field = model.model_fields[name]
    if filled := FILLED.get(f"{model.__name__}.{name}"):
        return f"if not given, {filled}"
    if field.is_required():
        return "**required**"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "default: none"
    if isinstance(default, ConfigModel):
        return f"default: {_link(page, type(default), _kind(type(default)) or 'its defaults')}"
    return f"default: `{_shown(to_jsonable_python(default))}`"


def _field_type(page: str, field: FieldInfo) -> str:
    return _type(page, field.annotation, tuple(field.metadata))


def _type(page: str, annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """A type and its bounds, in words."""
    words = list(dict.fromkeys(_alternatives(page, annotation, metadata)))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _alternatives(page: str, annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[str]:
    schema = next((one.json_schema for one in metadata if isinstance(one, WithJsonSchema)), None)
    origin, parts = get_origin(annotation), get_args(annotation)
    if schema is not None:
        yield from _json_alternatives(schema)
    elif origin is Annotated:
        inner = [part for one in parts[1:] for part in (getattr(one, "metadata", None) or [one])]
        yield from _alternatives(page, parts[0], (*inner, *metadata))
    elif origin in (Union, UnionType):
        for one in sorted(parts, key=lambda one: one is NoneType):  # null comes last
            yield from _alternatives(page, one)
    elif origin is Literal:
        yield from (f"`{one}`" for one in parts)
    elif origin is tuple:
        of = "list of" if parts[-1] is ... else f"list of {len(parts)}"
        yield f"{of} {_plural(_type(page, parts[0]))}{_at_least_one(metadata)}"
    elif origin is dict:
        yield f"mapping of names to {_plural(_type(page, parts[1]))}{_at_least_one(metadata)}"
    elif annotation is bool:
        yield from ("`true`", "`false`")
    elif isinstance(annotation, type) and issubclass(annotation, ConfigModel):
        yield _link(page, annotation, f"`{kind}`" if (kind := _kind(annotation)) else "mapping")
    elif _bound(metadata, "pattern"):
        yield "name"
    else:
        yield NAMES[annotation] + _bounds(metadata, whole=annotation is int)


def _plural(words: str) -> str:
    """Of several: the noun at the beginning, or of a link."""
    return re.sub(r"^(\[?)(whole number|number|text|name|mapping|value|list)\b", r"\1\2s", words)


def _json_alternatives(schema: dict[str, Any]) -> Iterator[str]:
    if "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _json_alternatives(one)
    elif schema["type"] == "array":
        yield f"list of {_plural(next(_json_alternatives(schema['items'])))}"
    else:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        yield from (JSON_NAMES[kind] for kind in kinds)


def _link(page: str, model: Model, text: str) -> str:
    if model in OWN:
        return f"[your own]({relative(OWN[model], page)})"
    section, kind = sections()[model], _kind(model)
    anchor = section.anchor + (f".{kind}" if kind else "")
    target = "" if section.page == page else relative(section.page, page)
    return f"[{text}]({target}#{anchor})"


def _bound(metadata: tuple[Any, ...], name: str) -> Any:
    found = (getattr(one, name, None) for one in metadata)
    return next((one for one in found if one is not None), None)


def _at_least_one(metadata: tuple[Any, ...]) -> str:
    return ", at least one" if _bound(metadata, "min_length") else ""


def _bounds(metadata: tuple[Any, ...], whole: bool = False) -> str:
    above, least, below, most, longest = (
        _bound(metadata, name) for name in ("gt", "ge", "lt", "le", "max_length")
    )
    if whole:
        least = above + 1 if above is not None else least
        most = below - 1 if below is not None else most
        above = below = None
        most = most if most is None or most < UNREACHED else None
    low = f"above {_number(above)}" if above is not None else None
    low = f"{_number(least)} or more" if least is not None else low
    high = f"below {_number(below)}" if below is not None else None
    high = f"at most {_number(most)}" if most is not None else high
    if least is not None and most is not None:
        low, high = f"{_number(least)} to {_number(most)}", None
    long = f"at most {longest} characters" if longest else None
    words = [word for word in (low, high, long) if word]
    return f" ({', '.join(words)})" if words else ""


def _number(value: float) -> str:
    return f"{value:,}"


def _shown(value: Any) -> str:
    """A default as YAML, in one line."""
    match value:
        case bool() | None:
            return json.dumps(value)
        case float():
            return f"{value:g}"
        case list():
            return f"[{', '.join(map(_shown, value))}]"
        case dict():
            return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in value.items()) + "}"
        case _:
            return str(value) or "''"
