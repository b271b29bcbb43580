"""Signatures that are kept are those that inspection finds."""

import inspect

from snakemake.common import get_function_params, overwrite_function_params

from workflow.lib.signatures import keep_signatures


class Inputs:
    """Input functions as the workflow has them."""

    def path(self, wildcards: dict[str, str]) -> str:
        return wildcards["run"]

    def option(self, wildcards: dict[str, str], input: list[str], *, attempt: int = 1) -> str:  # noqa: A002
        return f"{input}{attempt}"


def test_snakemake_finds_the_same_parameters():
    functions = (Inputs().path, Inputs().option)
    inspected = [dict(inspect.signature(function).parameters) for function in functions]
    keep_signatures(overwrite_function_params, Inputs)
    assert list(map(get_function_params, functions)) == inspected
    assert list(inspected[1]) == ["wildcards", "input", "attempt"]
