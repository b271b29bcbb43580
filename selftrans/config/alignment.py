"""What trains beside denoising: the keys that every method has, and the registry of methods.

A method is one class in one file: its keys, its formula, its loss (``selftrans/alignment/``). The
built-in ones are registered here by name, so that reading an experiment imports just those that it
names, and none of them imports torch before it computes. ``FILE.py:CLASS`` or ``MODULE:CLASS``
names a class of the user's own.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    Field,
    PlainValidator,
    SerializeAsAny,
    TypeAdapter,
    ValidationInfo,
    model_validator,
)

from selftrans.config.base import (
    ConfigModel,
    Name,
    PositiveFloat,
    PositiveInt,
    UnitFloat,
    Weights,
)
from selftrans.config.user_code import is_reference, load_class

METHODS = {
    "vae-alignment": "selftrans.alignment.vae_alignment:VaeAlignment",
    "self-transcendence": "selftrans.alignment.self_transcendence:SelfTranscendence",
    "repa": "selftrans.alignment.repa:Repa",
    "sra": "selftrans.alignment.sra:Sra",
    "layersync": "selftrans.alignment.layersync:LayerSync",
    "vae-repa": "selftrans.alignment.vae_repa:VaeRepa",
    "dispersive": "selftrans.alignment.dispersive:Dispersive",
    "haste": "selftrans.alignment.haste:Haste",
    "internal-guidance": "selftrans.alignment.internal_guidance:InternalGuidance",
}
"""Built-in methods: a further one is registered by its name here."""


class TimeRangeConfig(ConfigModel):
    """Where in time an alignment loss acts."""

    low: UnitFloat = 0.4
    """First t at which the term counts."""
    high: UnitFloat = 0.7
    """Last t at which it counts."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low: {self.low} is above high {self.high}")
        return self


TimeMasking = Literal["per-sample", "released"]
"""How a term is confined to its range of times. ``per-sample``, as the text says: a sample out of
range contributes zero. ``released``, as the released code computes it: every sample counts at every
t, and the mean is multiplied by the share of the global batch that is in range."""


class TeacherConfig(ConfigModel):
    """Which weights become the frozen teacher."""

    run: Name
    """Name of the run, in the same experiment."""
    step: PositiveInt
    """One of its checkpoints."""
    weights: Weights = "raw"
    """Trained weights or their moving average (the authors froze the raw ones)."""
    precision: Literal["training", "fp32"] = "training"
    """Arithmetic of the teacher: that of the training, or fp32 beside it, as in the released code
    (with `training.tf32` its products are rounded to TF32, as there)."""


class FrozenTeacher(NamedTuple):
    """A checkpoint of another run, cut at a block."""

    choice: TeacherConfig
    depth: int


class EncoderUse(NamedTuple):
    """An encoder of the data set, and where its features come from."""

    name: str
    features: Literal["store", "images"]


class NoAlignment(ConfigModel):
    """SiT as it is: nothing trains beside denoising."""

    method: Literal["none"] = "none"


class AlignmentConfig(ConfigModel):
    """The keys of every method."""

    method: str
    """Name of the method, or `FILE.py:CLASS` or `MODULE:CLASS` of one's own."""
    weight: PositiveFloat = 0.5
    """Factor lambda of the term in the loss."""
    stop_after: PositiveInt | None = None
    """Optimizer step after which the term is switched off; never, if it is not given."""

    @property
    def student_blocks(self) -> dict[str, int]:
        """Keys that name blocks of the run's own model; depths beyond the model are refused."""
        return {}

    @property
    def time_masking(self) -> TimeMasking | None:
        """The mask of the range of times of a method that has one."""
        return None

    @property
    def intermediate_depth(self) -> int | None:
        """Block that the model gets a second output layer behind, which the method trains."""
        return None

    @property
    def needs_sit(self) -> bool:
        """Whether the method reads what SiT alone offers: attention maps, a second output layer."""
        return self.intermediate_depth is not None

    @property
    def batch_group(self) -> int:
        """Number of consecutive samples of the global batch that the loss compares.

        No micro-batch begins within such a group.
        """
        return 1

    @property
    def frozen_teacher(self) -> FrozenTeacher | None:
        """The frozen teacher that the method follows."""
        return None

    @property
    def encoder_use(self) -> EncoderUse | None:
        """The encoder of the data set that the method follows."""
        return None


def method_class(method: str) -> type[AlignmentConfig]:
    """The class of a method.

    Raises:
        ValueError: in one line, why there is none.
    """
    if method in METHODS:
        module, _, name = METHODS[method].partition(":")
        built_in: type[AlignmentConfig] = getattr(import_module(module), name)
        return built_in
    if is_reference(method):
        base = import_module("selftrans.alignment.method").AlignmentMethod
        own: type[AlignmentConfig] = load_class(method, base)
        return own
    allowed = ", ".join(map(repr, METHODS))
    raise ValueError(f"{method!r} is unknown (allowed: {allowed}, or FILE.py:CLASS)")


def _validate_term(values: Any, info: ValidationInfo) -> AlignmentConfig:
    """The settings of one term."""
    if isinstance(values, AlignmentConfig):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"should be a mapping with a method, found {values!r}")
    if not isinstance(method := values.get("method"), str):
        raise ValueError("method: is missing" if method is None else f"method: found {method!r}")
    try:
        settings = method_class(method)
    except ValueError as error:
        raise ValueError(f"method: {error}") from None
    return settings.model_validate(values, strict=True, context=info.context)


def _validate_alignment(values: Any, info: ValidationInfo) -> Any:
    if isinstance(values, list | tuple):
        return _TERMS.validate_python(values, strict=True, context=info.context)
    if isinstance(values, Mapping) and values.get("method") == "none":
        return NoAlignment.model_validate(values, strict=True)
    return values if isinstance(values, NoAlignment) else _validate_term(values, info)


_Term = Annotated[SerializeAsAny[AlignmentConfig], PlainValidator(_validate_term)]
_TERMS: TypeAdapter[tuple[AlignmentConfig, ...]] = TypeAdapter(
    Annotated[tuple[_Term, ...], Field(min_length=1)]
)
Alignment = Annotated[
    NoAlignment | SerializeAsAny[AlignmentConfig] | tuple[SerializeAsAny[AlignmentConfig], ...],
    PlainValidator(_validate_alignment),
]
"""One method, several whose weighted losses are added, or none."""
