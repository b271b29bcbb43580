"""The protection of what was trained under a definition."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selftrans.config import ExperimentConfig, RunConfig, run_differences
from selftrans.config.defaults import VERSION, first_names
from selftrans.config.user_code import is_own_class, source_files
from selftrans.runtime.errors import UserError, shortened
from selftrans.runtime.files import read_fields, write_text

DEFINITION_FILE = "definition.json"
SAVING_FILE = "saving.json"  # in a run's state/: how long its last save took

Json = dict[str, Any]


def check_definition(
    directory: Path,
    experiment: ExperimentConfig,
    run: str,
    seed: int,
    inputs: Mapping[str, Any] | None = None,
    hint: str = "",
) -> Json | None:
    """Refuse to continue where ``directory`` was trained under another definition.

    Args:
        directory: of the run.
        experiment, run, seed: what is to be trained.
        inputs: what else the definition holds and is known here: the digests of what the run reads,
            its precision.
        hint: what the message says besides.

    Returns:
        The stored definition, by which its files are known; None if nothing was trained.

    Raises:
        UserError: in one line, the keys that differ and the two ways on.
    """
    path = directory / DEFINITION_FILE
    if not os.path.lexists(path):
        return None
    stored = _read_definition(path)
    different = [
        *run_differences(experiment, run, seed, stored),
        *_input_differences(stored, inputs or {}, ""),
    ]
    if different:
        raise UserError(
            f"{directory}: was trained under another definition: {'; '.join(different)}.{hint}"
            f" Give the run a new name, or discard what was trained: rm -r {directory}"
        )
    return stored


def _read_definition(path: Path) -> Json:
    """A stored definition; a damaged one must not pass for none.

    Raises:
        UserError: it is not what was written.
    """
    stored = read_fields(path, inputs=dict, precision=str)
    if "guidance" in stored and "alignment" not in stored:
        raise UserError(
            f"{path}: was written when {first_names()}. Give the run a new name, or discard what"
            f" was trained: rm -r {path.parent}"
        )
    pending: list[Any] = [stored]
    for part in pending:
        kinds = {"seed": int, "data": dict, "model": dict, "alignment": list, "training": dict}
        sound = isinstance(part, dict) and all(isinstance(part.get(k), kinds[k]) for k in kinds)
        others = isinstance(part, dict) and (
            isinstance(part.get("encoders", {}), dict)
            and isinstance(part.get("teachers", []), list)
            and type(part.get("defaults", 1)) is int
            and 1 <= part.get("defaults", 1) <= VERSION
        )
        if not (sound and others):
            raise UserError(f"{path}: damaged, it is not the definition of a run")
        pending += list(part.get("teachers", []))
    return stored


def keep_sources(directory: Path, settings: RunConfig) -> None:
    """Keep a copy of the user's own code with the run that it trains, in ``source/``."""
    for part in (*settings.alignments.values(), settings.model):
        if is_own_class(part):
            for name, path in source_files(type(part)).items():
                write_text(directory / "source" / name, path.read_text(encoding="utf-8"))


def _input_differences(stored: Any, current: Any, prefix: str) -> Iterator[str]:
    if isinstance(stored, Mapping) and isinstance(current, Mapping):
        for key in sorted(current if not prefix else {*stored, *current}):
            name = f"{prefix}.{key}".lstrip(".")
            yield from _input_differences(stored.get(key), current.get(key), name)
    elif stored != current:
        yield f"{prefix} (trained: {shortened(str(stored))}, now: {shortened(str(current))})"
