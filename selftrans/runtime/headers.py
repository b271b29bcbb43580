"""What a safetensors file of ours says about itself, read without torch."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import opened
from selftrans.runtime.seal import seal_of

FORMAT = 1
KEY = "selftrans"
"""Of the description among a file's metadata."""


def read_metadata(path: Path, kind: str) -> dict[str, Any]:
    """The metadata of a file of ours, without reading its tensors.

    Raises:
        UserError: the file is absent, damaged, of another program, another format or another kind.
    """
    with opened_tensors(path, "np") as file:
        return _checked(path, kind, file.metadata())


def is_own_file(path: Path) -> bool:
    """Whether a safetensors file was written by ``save_tensors``.

    Raises:
        UserError: it is no safetensors file.
    """
    with opened_tensors(path, "np") as file:
        return KEY in (file.metadata() or {})


@contextmanager
def opened_tensors(path: Path, framework: Literal["np", "pt"]) -> Iterator[Any]:
    """A safetensors file, opened for reading its tensors as numpy's or torch's.

    Raises:
        UserError: it is absent, truncated or of another kind.
    """
    with opened(path):
        pass
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: truncated or not a safetensors file ({error})") from None


def _checked(path: Path, kind: str, raw: Mapping[str, str] | None) -> dict[str, Any]:
    if not raw or KEY not in raw:
        raise UserError(f"{path}: was not written by selftrans")
    try:
        header = dict(json.loads(raw[KEY]))
    except ValueError:
        raise UserError(f"{path}: damaged, its description is not what was written") from None
    if (version := header.get("format")) != FORMAT:
        raise UserError(f"{path}: format {version}, allowed is {FORMAT}")
    if header.pop("seal", None) != seal_of(header):
        raise UserError(f"{path}: damaged, its description is not what was written")
    if header.get("kind") != kind:
        raise UserError(f"{path}: holds {header.get('kind')}, expected was {kind}")
    return header
