"""What every part of an experiment file shares: strict models and scalar types."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from selftrans.config import defaults

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
UnitFloat = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Weights = Literal["ema", "raw"]
InterpolantName = Literal["linear", "cosine"]
Precision = Literal["fp32", "bf16", "fp16"]


class ConfigModel(BaseModel):
    """Base of every part of a file: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _fill_former_defaults(cls, values: Any, info: ValidationInfo) -> Any:
        """Keys that are not given have the defaults of the version that the file is read with."""
        version = (info.context or {}).get("defaults", defaults.VERSION)
        if version == defaults.VERSION or not isinstance(values, Mapping):
            return values
        return {**defaults.former(cls, version), **values}
