"""The files of a checkpoint: weights, history, and a description with the digests of all."""

from collections.abc import Mapping
from pathlib import Path

from selftrans.config import Weights
from selftrans.models.metadata import WeightsMetadata
from selftrans.models.sit import SiT
from selftrans.runtime.files import remove_stale_temp_files, sha256_of, write_json, write_text
from selftrans.runtime.headers import FORMAT


def export(
    directory: Path,
    backbones: Mapping[Weights, SiT],
    metadata: WeightsMetadata,
    history_csv: str,
    *,
    after: int,
    seconds: float,
) -> None:
    """Write a checkpoint; its description comes last, so that a checkpoint with one is whole.

    Args:
        directory: of the checkpoint.
        backbones: averaged and raw.
        metadata: of the weight files, but for which of the two a file holds.
        history_csv: the losses logged so far.
        after: the checkpoint that the workflow scheduled this one behind; only recorded.
        seconds: wall time of the training, over all its attempts.
    """
    digests: dict[str, str] = {}
    for weights, backbone in backbones.items():
        file = directory / f"{weights}.safetensors"
        described = metadata.model_copy(update={"weights": weights})
        digests[weights] = described.save(file, backbone.state_dict())
    history = directory / "history.csv"
    write_text(history, history_csv)
    description = {
        "format": FORMAT,
        "fingerprint": metadata.fingerprint,
        "step": metadata.step,
        "after": after,
        "seconds": seconds,
        "digests": {**digests, "history": sha256_of(history)},
    }
    write_json(directory / "checkpoint.json", description)
    remove_stale_temp_files(directory)
