"""The version of the defaults, and the values that defaults had before.

A default that changes would change the numbers of every experiment that is silent about its key.
So whoever changes one raises ``VERSION`` and writes the former value into ``FORMER``. Experiments
that have results go on with the defaults that they began with (``defaults`` in the resolved file);
new ones get the newest.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

VERSION = 1
FORMER: dict[str, dict[int, Any]] = {}
"""By ``Model.key``: the last version that had a default, and that default. For instance
``{"TrainingConfig.ema_decay": {1: 0.999}}`` where version 2 made it 0.9999."""
RETIRED: dict[str, Any] = {}
"""By ``Model.key``: the default of a key that exists no longer."""
MISSING = object()


def default_of(model: type[BaseModel], key: str, version: int) -> Any:
    """The default of a key in a version, as JSON; ``MISSING`` where it has to be given."""
    for last in sorted(changes := FORMER.get(f"{model.__name__}.{key}", {})):
        if version <= last:
            return changes[last]
    field = model.model_fields[key]
    if field.is_required():
        return MISSING
    return to_jsonable_python(field.get_default(call_default_factory=True))


RENAMED = {
    "guidance": "alignment",
    "width": "hidden_size",
    "heads": "num_heads",
    "path": "interpolant",
    "time": "time_sampling",
}
"""Keys of the first results, which are not read any more, and what they are called now."""


def former(model: type[BaseModel], version: int) -> Mapping[str, Any]:
    """What a model's keys fall back to under an older version, as far as it may differ today.

    A part with defaults of its own falls back to what is set in it, which its model completes.
    """
    values: dict[str, Any] = {}
    for key in model.model_fields:
        if f"{model.__name__}.{key}" in FORMER:
            values[key] = default_of(model, key, version)
        elif isinstance(part := model.model_fields[key].default, BaseModel):
            values[key] = part.model_dump(exclude_unset=True)
    return values


def first_names() -> str:
    """When such results were written, for a message."""
    return f"keys had other names ({', '.join(f'{a} is {b} now' for a, b in RENAMED.items())})"
