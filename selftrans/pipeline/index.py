"""``model_index.json`` of an exported pipeline: what it may name, and what its settings may be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from diffusers import FlowMatchEulerDiscreteScheduler
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from selftrans.config import Uint8Conversion
from selftrans.models.autoencoder import AUTOENCODERS
from selftrans.models.metadata import LatentScaling
from selftrans.pipeline.card import Provenance
from selftrans.pipeline.transformer import SiTTransformer
from selftrans.runtime.errors import UserError, shortened
from selftrans.runtime.files import read_fields

INDEX_FILE = "model_index.json"
PIPELINE = "SiTPipeline"
Time = Annotated[float, Field(ge=0, le=1)]


class CallSettings(BaseModel):
    """What a call of the pipeline does if it does not say otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    num_inference_steps: Annotated[int, Field(ge=1)] = 50
    guidance_scale: float = 1.0
    guidance_interval: tuple[Time, Time] = (0.0, 1.0)
    guidance_channels: Annotated[int, Field(ge=1)] | None = None
    uint8: Uint8Conversion = "round"


class _Settings(BaseModel):
    """Ours among the entries of an index; diffusers' own are checked apart."""

    model_config = ConfigDict(extra="ignore")
    id2label: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], str] | None = None
    latent_scaling: LatentScaling | None = None
    sampling: CallSettings | None = None
    provenance: Provenance | None = None

    @field_validator("latent_scaling", mode="before")
    @classmethod
    def _with_its_digest(cls, value: Any) -> Any:
        """An export has no digest of the latents."""
        return {"digest": None, **value} if isinstance(value, Mapping) else value


def check_index(path: Path) -> None:
    """Refuse a folder whose classes or settings are others than those of such a pipeline.

    diffusers imports whatever module such a file names.

    Raises:
        UserError: in one line, with what was found.
    """
    index = read_fields(path)
    if index.get("_class_name") != PIPELINE:
        found = shortened(repr(index.get("_class_name")))
        raise UserError(f"{path}: holds a {found}, expected is {PIPELINE!r}")
    transformer = [SiTTransformer.__module__, SiTTransformer.__name__]
    scheduler = ["diffusers", FlowMatchEulerDiscreteScheduler.__name__]
    match index.get("vae"):
        case ["diffusers", str(name)]:
            decodes = name.startswith(AUTOENCODERS)
        case _:
            decodes = False
    for key, allowed, sound in (
        ("transformer", str(transformer), index.get("transformer") == transformer),
        ("scheduler", str(scheduler), index.get("scheduler") == scheduler),
        ("vae", "an autoencoder of diffusers", decodes),
    ):
        if not sound:
            found = shortened(repr(index.get(key)))
            raise UserError(f"{path}: {key} is {found} (allowed: {allowed})")
    try:
        _Settings.model_validate(index)
    except ValidationError as error:
        problem = error.errors()[0]
        field, found = ".".join(map(str, problem["loc"])), repr(problem["input"])
        reason = shortened(f"{field} is {shortened(found, 60)} ({problem['msg']})", 300)
        raise UserError(f"{path}: damaged, {reason}") from None
    if code := [file.name for file in path.parent.rglob("*.py")]:
        raise UserError(
            f"{path.parent}: holds code ({code[0]}), which is never executed: remove it"
        )
