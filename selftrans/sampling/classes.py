"""Classes as users write them: one or several, by number or by name, in lists or tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from selftrans.data.class_names import class_of, readable_names
from selftrans.data.manifests import Manifest, read_manifest
from selftrans.runs import DataRecord
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


def names_of_classes(project: Path, data: DataRecord) -> tuple[str, ...]:
    """Names of the classes of some data: its file's, else as its source has them, else none."""
    manifest = project / data.latents
    if data.class_names or not manifest.is_file():
        return tuple(data.class_names)
    return readable_names(read_manifest(manifest, Manifest).class_names)


def _number(one: object, num_classes: int, names: Sequence[str]) -> int:
    if isinstance(one, str):
        return class_of(one, names or tuple(map(str, range(num_classes))))
    if isinstance(one, bool) or not hasattr(one, "__index__"):
        raise UserError(
            f"class {shortened(repr(one))} is neither a number nor a name"
            f" (allowed: 0 to {num_classes - 1})"
        )
    if not 0 <= (number := one.__index__()) < num_classes:
        raise UserError(f"class {number} is not one of the model (allowed: 0 to {num_classes - 1})")
    return int(number)
