"""What the docstrings below a model's keys say: for schemas and the reference, not for runs.

Pydantic would read them whenever a process starts (``use_attribute_docstrings``), which is a third
of the time that importing all models takes.
"""

import ast
import inspect
from functools import cache
from textwrap import dedent

from selftrans.config.base import ConfigModel


@cache
def key_docstrings(model: type[ConfigModel]) -> dict[str, str]:
    """By key, also of inherited ones; a key that is set again without a docstring has none."""
    found: dict[str, str | None] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, ConfigModel):
            found |= _own(owner)
    return {name: text for name in model.model_fields if (text := found.get(name))}


def _own(model: type[ConfigModel]) -> dict[str, str | None]:
    definition = ast.parse(dedent(inspect.getsource(model))).body[0]
    assert isinstance(definition, ast.ClassDef)
    keys: dict[str, str | None] = {}
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            keys[statement.target.id] = _text(following)
    return keys


def _text(statement: ast.stmt | None) -> str | None:
    match statement:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return inspect.cleandoc(text)
    return None
