"""Values and damages that files and keys are tried with."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from selftrans.runtime.errors import UserError

VALUES: dict[str, Any] = {
    "null": None, "true": True, "infinity": math.inf, "minus infinity": -math.inf, "nan": math.nan,
    "zero": 0, "a negative number": -3, "a huge number": 10**30, "a fraction": 1e-320,
    "no text": "", "lines": "a\nb", "a null byte": "a\0b", "a long text": "x" * 5000,
    "a bracket": "{0.__class__}", "a wide field": "{0:9999999999}", "a path upwards": "../../x",
    "no list": [], "a list of lists": [[[]]], "no mapping": {}, "a mapping": {"a": {"b": None}},
    "a method": {"method": "a:b"}, "numbers as keys": {1: 2, None: 3},
}  # fmt: skip
"""What a key may be given instead of what belongs there."""


def leaves(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys of everything that a file says, of parts and of their parts."""
    if keys:
        yield keys
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*keys, key))


def part_of(value: Any, keys: tuple[Any, ...]) -> Any:
    """The part that some keys lead to."""
    for key in keys:
        value = value[key]
    return value


def changed(value: Any, keys: tuple[Any, ...], new: Any) -> Any:
    """A copy in which the part that some keys lead to is another one."""
    if not keys:
        return new
    copied = value.copy()
    copied[keys[0]] = changed(copied[keys[0]], keys[1:], new)
    return copied


def flipped(content: bytes, bits: range) -> Iterator[bytes]:
    """The content with each of these bits turned, one at a time."""
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


def refused_or(read: Callable[[], Any], path: Path) -> Any:
    """What ``read`` returns; None where it refuses in one readable line that names the file."""
    try:
        return read()
    except UserError as error:
        line = str(error)
        assert path.name in line or path.parent.name in line, line
        assert line.isprintable(), line
        assert len(line) < 2500, line[:300]
        return None
