"""Manifests of stores: what a store holds, and what its rows were made from."""

import hashlib
import json
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from selftrans.runtime.errors import UserError
from selftrans.runtime.files import read_fields
from selftrans.runtime.seal import unsealed
from selftrans.runtime.tensors import PerChannel

Size = Annotated[int, Field(gt=0, le=2**20)]


def _of_data(origin: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(origin.get("data", {}), dict):
        raise ValueError("data is no mapping")
    return origin


Origin = Annotated[dict[str, Any], AfterValidator(_of_data)]
"""What a store's rows were made from."""


class ShardRecord(BaseModel):
    """One file of rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: Annotated[str, Field(pattern=r"^(moments|features|captions)-\d{5,9}\.npy$")]
    count: Annotated[int, Field(ge=1)]
    """Rows."""
    bytes: Annotated[int, Field(ge=1)]
    sha256: str


class Manifest(BaseModel):
    """Of a latent store: its content and its origin."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    count: int
    class_names: tuple[str, ...]
    latent_shape: tuple[Size, Size, Size]
    """(C, H, W)."""
    image_size: Size
    dtype: Literal["float16", "float32"]
    scale: PerChannel
    shift: PerChannel
    """A latent that the model sees is (posterior sample - shift) * scale."""
    scale_origin: Literal["autoencoder", "measured"]
    labels_sha256: str
    views: int = 1
    """Rows of each image: itself, and mirrored."""
    skipped: tuple[str, ...] = ()
    """Names of images that cannot be decoded and were left out."""
    shards: tuple[ShardRecord, ...]
    origin: Origin
    """The data definition, and the digests of the images' listing and of the autoencoder."""

    @model_validator(mode="after")
    def _scales_fit(self) -> Self:
        for name, value in (("scale", self.scale), ("shift", self.shift)):
            numbers = value if isinstance(value, tuple) else (value,)
            if len(numbers) not in {self.latent_shape[0], 1} or not all(map(isfinite, numbers)):
                raise ValueError(f"{name} is {value}")
            if name == "scale" and min(numbers) <= 0:
                raise ValueError(f"{name} is {value}, allowed is a positive number")
        return self

    @property
    def num_classes(self) -> int:
        """Number of classes K; the null class is K."""
        return len(self.class_names)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the latents a training sees."""
        content = [
            self.latent_shape,
            self.scale,
            self.shift,
            self.labels_sha256,
            [s.sha256 for s in self.shards],
        ]
        content += [] if self.views == 1 else [self.views]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class FeatureManifest(BaseModel):
    """Of a feature store: its content and its origin."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    count: int
    encoder: str
    encoder_digest: str
    stand_in: bool
    """Whether the encoder was trained here, on the data itself, for want of published weights."""
    grid_size: Size
    """Tokens per side; T is its square."""
    hidden_size: Size
    """Length D of a token."""
    dtype: Literal["float16"] = "float16"
    views: int = 1
    """Rows of each image: itself, and mirrored."""
    shards: tuple[ShardRecord, ...]
    origin: Origin
    """The images and the encoder's digest."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the features a training sees."""
        content = [self.grid_size, self.hidden_size, [shard.sha256 for shard in self.shards]]
        content += [] if self.views == 1 else [self.views]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class CaptionManifest(BaseModel):
    """Of a caption store: its content and its origin."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    count: int
    """Rows: the empty caption's, then a row for each caption."""
    images: Annotated[int, Field(ge=1)]
    encoder: str
    encoder_digest: str
    stand_in: bool
    """Whether the text encoder is a stand-in for want of published weights."""
    length: Size
    """Tokens L of a caption."""
    size: Size
    """Length K of a token's features."""
    truncated: int
    """Captions that have more than L tokens, of which the first L are kept."""
    dtype: Literal["float16"] = "float16"
    offsets_sha256: str
    texts_sha256: str
    shards: tuple[ShardRecord, ...]
    origin: Origin
    """The data definition, and the digests of images, captions and text encoder."""

    @property
    def shape(self) -> tuple[int, int]:
        """(L, K)."""
        return self.length, self.size

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the captions a training sees."""
        content = [self.shape, self.offsets_sha256, [shard.sha256 for shard in self.shards]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


AnyManifest = TypeVar("AnyManifest", Manifest, FeatureManifest, CaptionManifest)


def read_manifest(path: Path, kind: type[AnyManifest]) -> AnyManifest:
    """The manifest of a store.

    Raises:
        UserError: it is absent, damaged or of another kind of store.
    """
    content = unsealed(read_fields(path), path)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        name = kind.__name__.removesuffix("Manifest").lower() or "latent"
        raise UserError(
            f"{path}: not a {name} store's manifest ({field}: {problem['msg']})"
        ) from None
