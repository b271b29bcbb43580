"""What every part of an experiment file shares: strict models and scalar types."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from selftrans.config import defaults

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError(f"{text!r} is not one line of text (allowed: printable characters)")
    return text


def _label(text: str) -> str:
    if text.startswith("_"):
        raise ValueError(f"{text!r} begins with _, and figures leave out such names")
    return text


Line = Annotated[str, Field(max_length=4096), AfterValidator(_one_line)]
"""A path, a name or a sentence."""
Label = Annotated[str, Field(max_length=100), AfterValidator(_one_line), AfterValidator(_label)]
"""What a run is called in figures and tables; plain text, whatever characters it has."""
PositiveInt = Annotated[int, Field(gt=0, le=10**12)]
PositiveFloat = Annotated[float, Field(gt=0)]
UnitFloat = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Weights = Literal["ema", "raw"]
InterpolantName = Literal["linear", "cosine"]
Precision = Literal["fp32", "bf16", "fp16"]
Condition = Literal["class", "caption"]
"""What an image is conditioned on."""
ConditionSize = int | tuple[int, int]
"""Number of classes K, or shape (L, K) of the features of a caption's tokens."""


class ConfigModel(BaseModel):
    """Base of every part of a file: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fill_former_defaults(cls, values: Any, info: ValidationInfo) -> Any:
        """Keys that are not given have the defaults of the version that the file is read with."""
        version = (info.context or {}).get("defaults", defaults.VERSION)
        if version == defaults.VERSION or not isinstance(values, Mapping):
            return values
        return {**defaults.former(cls, version), **values}
