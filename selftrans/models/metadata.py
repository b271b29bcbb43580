"""What weight files say about themselves: a checkpoint's backbone, and the teacher cut from one."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from selftrans.config import Convention, InterpolantName, TextEncoderConfig, Weights
from selftrans.config.defaults import first_names
from selftrans.config.identity import fingerprint
from selftrans.models.shape import StoredShape
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields
from selftrans.runtime.metadata import FileMetadata
from selftrans.runtime.tensors import PerChannel, over_channels


class LatentScaling(BaseModel):
    """The latents that a backbone was trained on: it sees (latent - shift) * scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    digest: str | None
    """Of the latent store; None for an imported backbone, whose latents nobody knows."""
    scale: PerChannel
    shift: PerChannel
    autoencoder_digest: str | None = None
    """Of what made the latents; None where nobody knows, and in files of earlier versions."""

    def unscaled(self, z_BCHW: Tensor) -> Tensor:
        """What a decoder takes, of latents that the backbone sees."""
        scale, shift = (over_channels(value, z_BCHW.device) for value in (self.scale, self.shift))
        return z_BCHW / scale + shift


class ImportedFrom(BaseModel):
    """The public file that a backbone was converted from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str
    convention: Convention
    """Its direction of time."""


class TextEncoderRecord(BaseModel):
    """What encoded the captions that a backbone was trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    digest: str
    settings: TextEncoderConfig
    """As the data file had them."""


class BackboneMetadata(FileMetadata):
    """Of a file that holds a backbone, or the first blocks of one, with its shape."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_first_names(cls, values: Any) -> Any:
        shape = values.get("shape") if isinstance(values, dict) else None
        if isinstance(shape, dict) and "width" in shape:
            raise ValueError(
                f"was written when {first_names()}; sample it with the version that wrote it, or"
                " train it again"
            )
        return values


class WeightsMetadata(BackboneMetadata):
    """Of a checkpoint's weight file: which training it is from, and what it needs to be sampled."""

    kind: ClassVar[str] = "weights"
    run: str
    seed: int
    step: int
    fingerprint: str
    """Of the run's definition; of an imported backbone, the public file's SHA-256."""
    shape: StoredShape
    own_backbone: dict[str, Any] | None = None
    """Settings of a backbone of the user's own; None for SiT."""
    interpolant: InterpolantName
    text_encoder: TextEncoderRecord | None = None
    """What encoded the captions that it was trained on; None for a model of classes."""
    latents: LatentScaling
    version: str
    """Of selftrans."""
    weights: Weights
    imported: ImportedFrom | None = None


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], WeightsMetadata]:
    """Tensors (on the CPU) and metadata of a checkpoint's weight file.

    Among a run's checkpoints, the file has to be the one that its place, the record beside it and
    the run's definition say.

    Raises:
        UserError: the file is absent, damaged or of another kind, or belongs somewhere else.
    """
    tensors, metadata = WeightsMetadata.load(path)
    folder, place = path.absolute().parent, []
    if folder.parent.name == "checkpoints" and folder.name.isdecimal():
        place += [("step", int(folder.name)), ("weights", path.stem)]
        if (definition := folder.parents[1] / "definition.json").exists():
            place.append(("fingerprint", fingerprint(read_fields(definition))))
    if (record := path.with_name("checkpoint.json")).exists():
        recorded = read_fields(record, fingerprint=str, step=int, digests=dict)
        place += [(key, recorded[key]) for key in ("fingerprint", "step")]
        place.append(("digest", recorded["digests"].get(path.stem)))
    for key, expected in place:
        if (found := getattr(metadata, key)) != expected:
            raise UserError(
                f"{path}: belongs to another checkpoint, its {key} is {found}, expected {expected}"
            )
    return tensors, metadata


class TeacherSource(BaseModel):
    """The weight file that a teacher was cut from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    run: str
    seed: int
    step: int
    weights: Weights
    digest: str
    fingerprint: str


class TeacherMetadata(BackboneMetadata):
    """Of a frozen teacher: embedders and the first ``shape.depth`` blocks of a backbone."""

    kind: ClassVar[str] = "teacher"
    shape: StoredShape
    own_backbone: dict[str, Any] | None = None
    """Settings of a backbone of the user's own, of this depth; None for SiT."""
    source: TeacherSource
    latents: LatentScaling
