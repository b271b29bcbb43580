"""Classes as users write them: one or several, by number or by name, in lists or tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from selftrans.data.manifests import Manifest, read_manifest
from selftrans.runtime.errors import UserError, shortened

if TYPE_CHECKING:
    from torch import Tensor

Class: TypeAlias = "int | str"
Classes: TypeAlias = "Class | Iterable[Class] | NDArray[np.integer] | Tensor"


def class_numbers(
    classes: Classes, num_classes: int, names: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Classes as numbers, (B,).

    Args:
        classes: one or several, each by its number or its name.
        num_classes: K.
        names: of the classes, in their order.

    Raises:
        UserError: a class is unknown, or its name means several; with those that there are.
    """
    listed = classes.tolist() if hasattr(classes, "tolist") else classes
    if isinstance(listed, int | float | str):
        listed = [listed]
    numbers = [_number(one, num_classes, names) for one in listed]
    return np.array(numbers, dtype=np.int64)


def names_of_classes(manifest: Path) -> tuple[str, ...]:
    """Names of the classes of a latent store, as its source has them; none without a store."""
    return read_manifest(manifest, Manifest).class_names if manifest.is_file() else ()


def _number(one: object, num_classes: int, names: Sequence[str]) -> int:
    if isinstance(one, str):
        found = [number for number, name in enumerate(names) if name == one]
        if len(found) == 1:
            return found[0]
        if found:
            allowed = " or ".join(map(str, found))
            raise UserError(f"class {shortened(repr(one))} is the name of several ({allowed})")
        near = get_close_matches(one, names, n=1)
        known = f"did you mean {near[0]!r}? " if near else ""
        listed = shortened(", ".join(names)) or f"0 to {num_classes - 1}"
        raise UserError(f"class {shortened(repr(one))} is unknown ({known}known: {listed})")
    if isinstance(one, bool) or not hasattr(one, "__index__"):
        raise UserError(
            f"class {shortened(repr(one))} is neither a number nor a name"
            f" (allowed: 0 to {num_classes - 1})"
        )
    if not 0 <= (number := one.__index__()) < num_classes:
        raise UserError(f"class {number} is not one of the model (allowed: 0 to {num_classes - 1})")
    return int(number)
