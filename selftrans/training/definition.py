"""What defines the numbers of a run, and the protection of what was trained under a definition."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selftrans.config import EXECUTION_FIELDS, LOCATION_FIELDS, ExperimentConfig
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_json

DEFINITION_FILE = "definition.json"
SAVING_FILE = "saving.json"  # in a run's state/: how long its last save took
NUMERIC_DATA_FIELDS = {"source", "image_size", "autoencoder", "latents"}


def run_definition(experiment: ExperimentConfig, run: str, seed: int) -> dict[str, Any]:
    """All settings that decide the numbers of a run, its teachers' and encoders' included.

    Neither the list of checkpoints, nor the devices, nor the evaluation is among them.
    """
    settings = experiment.runs[run]
    alignment = [term.model_dump(mode="json") for term in settings.alignments]
    encoders = {used.name: experiment.data.encoders[used.name] for used in settings.encoders}
    return {
        "seed": seed,
        "data": experiment.data.model_dump(
            mode="json", include=NUMERIC_DATA_FIELDS, exclude=LOCATION_FIELDS
        ),
        "model": settings.model.model_dump(mode="json", exclude={"preset"}),
        "alignment": alignment,
        "training": settings.training.model_dump(mode="json", exclude=EXECUTION_FIELDS),
        "teachers": [
            run_definition(experiment, teacher.choice.run, seed) for teacher in settings.teachers
        ],
        # Not where a file lies: the digest of what it came to is among a run's inputs.
        "encoders": {
            name: encoder.model_dump(mode="json", exclude={"weights"})
            for name, encoder in encoders.items()
        },
    }


def fingerprint(definition: dict[str, Any]) -> str:
    """SHA-256 of a definition."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def check_definition(directory: Path, definition: dict[str, Any]) -> None:
    """Refuse to go on where ``directory`` was trained under another definition; parts that only one side has are not compared.

    Raises:
        UserError: in one line, the keys that differ and the two ways on.
    """
    path = directory / DEFINITION_FILE
    if not path.is_file():
        return
    trained = {part: value for part, value in read_json(path).items() if part in definition}
    current = {part: value for part, value in definition.items() if part in trained}
    if found := list(_differences(trained, current, "")):
        raise UserError(
            f"{directory}: was trained under another definition: {'; '.join(found)}."
            f" Give the run a new name, or discard what was trained: rm -r {directory}"
        )


def _differences(trained: Any, current: Any, key: str) -> Iterator[str]:
    if isinstance(trained, dict) and isinstance(current, dict):
        for name in sorted(trained.keys() | current.keys()):
            yield from _differences(
                trained.get(name), current.get(name), f"{key}.{name}".lstrip(".")
            )
    elif isinstance(trained, list) and isinstance(current, list) and len(trained) == len(current):
        for number, (before, now) in enumerate(zip(trained, current, strict=True)):
            yield from _differences(before, now, f"{key}.{number}")
    elif trained != current:
        yield f"{key} (trained: {trained}, now: {current})"
