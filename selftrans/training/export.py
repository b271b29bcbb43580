"""The files of a checkpoint: weights, logged losses, and a description with the digests of all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selftrans.config import Weights
from selftrans.models.backbone import Backbone
from selftrans.models.metadata import WeightsMetadata
from selftrans.runtime.files import remove_stale_temp_files, sha256_of, write_json, write_text
from selftrans.runtime.headers import FORMAT
from selftrans.training.throughput import Reached


def export(
    directory: Path,
    backbones: Mapping[Weights, Backbone],
    metadata: WeightsMetadata,
    tables: Mapping[str, str],
    *,
    after: int,
    seconds: float,
    reached: Reached | None,
    machine: Mapping[str, Any],
    command: str,
) -> None:
    """Write a checkpoint; its description comes last, so that a checkpoint with one is whole.

    Args:
        directory: of the checkpoint.
        backbones: averaged and raw.
        metadata: of the weight files, but for which of the two a file holds.
        tables: what was logged so far, as CSV, by the name of its file.
        after: the checkpoint that the workflow scheduled this one behind; only recorded.
        seconds: time of the training, over all its attempts, by ``training_clock``.
        reached: what the last attempt reached, if it made a step; only recorded.
        machine: what the last attempt ran on; only recorded.
        command: its command line; only recorded, empty if it was not started by one.
    """
    digests: dict[str, str] = {}
    for weights, backbone in backbones.items():
        file = directory / f"{weights}.safetensors"
        described = metadata.model_copy(update={"weights": weights})
        digests[weights] = described.save(file, backbone.state_dict())
    for name, table in tables.items():
        path = directory / f"{name}.csv"
        write_text(path, table)
        digests[name] = sha256_of(path)
    description = {
        "format": FORMAT,
        "fingerprint": metadata.fingerprint,
        "step": metadata.step,
        "after": after,
        "seconds": seconds,
        "reached": reached and reached._asdict(),
        "machine": dict(machine),
        "command": command,
        "digests": digests,
    }
    write_json(directory / "checkpoint.json", description)
    remove_stale_temp_files(directory)
