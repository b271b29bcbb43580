"""Compute every golden number again: ``python -m tests.golden``, or ``make golden``.

A value within its tolerance stays as it is stored, so that another processor changes no file.
"""

import json
from typing import Any

from tests.golden.compute import FILES, HERE, TOLERANCES, computed, differences, stored


def as_text(value: Any, indent: str = "") -> str:
    """JSON with a line for each key and each list."""
    if not isinstance(value, dict):
        return json.dumps(value)
    inner = indent + " "
    lines = [f"{inner}{json.dumps(key)}: {as_text(one, inner)}" for key, one in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def main() -> None:
    """Write all files in place, and print what has changed."""
    changed = 0
    for file, functions in FILES.items():
        before, after = stored(file), {}
        for key in functions:
            after[key] = computed(file, key)
            if key not in before:
                print(f"{file}: {key}: new")
                continue
            if found := list(differences(before[key], after[key], TOLERANCES[file])):
                changed += 1
                print(f"{file}: {key}:", *found, sep="\n  ")
            else:
                after[key] = before[key]
        for key in before.keys() - after.keys():
            print(f"{file}: {key}: removed")
        (HERE / f"{file}.json").write_text(as_text(after) + "\n", encoding="utf-8")
    print(f"{changed} values differ from what was stored")


if __name__ == "__main__":
    main()
