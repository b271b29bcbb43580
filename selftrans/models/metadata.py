"""What weight files say about themselves: a checkpoint's backbone, and the teacher cut from one."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from selftrans.config import Convention, InterpolantName, Weights
from selftrans.models.shape import SiTShape
from selftrans.runtime.metadata import FileMetadata
from selftrans.runtime.tensors import PerChannel, over_channels


class LatentScaling(BaseModel):
    """The latents that a backbone was trained on: it sees (latent - shift) * scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    digest: str | None
    """Of the latent store; None for an imported backbone, whose latents nobody knows."""
    scale: PerChannel
    shift: PerChannel

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


class WeightsMetadata(FileMetadata):
    """Of a checkpoint's weight file: which training it is from, and what it needs to be sampled."""

    kind: ClassVar[str] = "weights"
    run: str
    seed: int
    step: int
    fingerprint: str
    """Of the run's definition; of an imported backbone, the public file's SHA-256."""
    shape: SiTShape
    own_backbone: dict[str, Any] | None = None
    """Settings of a backbone of the user's own; None for SiT."""
    interpolant: InterpolantName
    latents: LatentScaling
    version: str
    """Of selftrans."""
    weights: Weights
    imported: ImportedFrom | None = None


class TeacherSource(BaseModel):
    """The weight file that a teacher was cut from."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    run: str
    seed: int
    step: int
    weights: Weights
    digest: str
    fingerprint: str


class TeacherMetadata(FileMetadata):
    """Of a frozen teacher: embedders and the first ``shape.depth`` blocks of a backbone."""

    kind: ClassVar[str] = "teacher"
    shape: SiTShape
    own_backbone: dict[str, Any] | None = None
    """Settings of a backbone of the user's own, of this depth; None for SiT."""
    source: TeacherSource
    latents: LatentScaling
