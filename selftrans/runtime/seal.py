"""Descriptions in JSON that are known to be as they were written."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrans.runtime.errors import UserError

KEY = "seal"


def seal_of(description: Mapping[str, Any]) -> str:
    """SHA-256 of a description."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def sealed(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description with its own digest."""
    return {**description, KEY: seal_of(description)}


def unsealed(
    description: Mapping[str, Any], path: Path, *, required: bool = False
) -> dict[str, Any]:
    """A description without its digest, which is compared.

    Args:
        description: as it was read.
        path: of the file, for the message.
        required: whether one without a digest, as earlier versions wrote them, is refused.

    Raises:
        UserError: it is not what was written.
    """
    rest = {key: value for key, value in description.items() if key != KEY}
    found = description.get(KEY)
    if (found is None and required) or (found is not None and found != seal_of(rest)):
        raise UserError(f"{path}: damaged, its description is not what was written")
    return rest
