"""Signatures of input functions, read once: Snakemake reads one at each of thousands of calls."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

Keep = Callable[[Callable[..., Any], Mapping[str, inspect.Parameter]], None]


def keep_signatures(keep: Keep, *owners: type) -> None:
    """Keep the parameters of the methods of some classes where Snakemake looks for them first.

    Args:
        keep: Snakemake's ``overwrite_function_params``.
        owners: the classes.
    """
    for owner in owners:
        for method in filter(inspect.isfunction, vars(owner).values()):
            _, *parameters = inspect.signature(method).parameters.items()  # but for self
            keep(method, dict(parameters))
