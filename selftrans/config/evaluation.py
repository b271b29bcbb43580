"""What is measured, on which samples."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from selftrans.config.base import (
    ConfigModel,
    Line,
    Name,
    PositiveFloat,
    PositiveInt,
    Seed,
    UnitFloat,
    Weights,
)

ExtractorName = Literal["classifier", "inception", "dinov2"]
EXTRACTORS: tuple[ExtractorName, ...] = ("classifier", "inception", "dinov2")
ScorerName = Literal["clip", "reader"]
SCORERS: tuple[ScorerName, ...] = ("clip", "reader")
"""What compares each picture with its caption."""
Uint8Conversion = Literal["round", "truncate"]
SamplerName = Literal["euler", "heun", "euler-maruyama", "dopri5"]
DistanceArithmetic = Literal["fp32", "adm"]
Metric = Literal[
    "fid", "sfid", "is", "precision", "recall", "kid", "fd-dinov2",
    "clip-score", "caption-accuracy", "held-out-accuracy",
]  # fmt: skip
# Extractors that a metric is defined for; an FID of the classifier never compares with one of
# Inception.
METRIC_EXTRACTORS: dict[Metric, tuple[ExtractorName, ...]] = {
    "fid": ("classifier", "inception"),
    "sfid": ("inception",),
    "is": ("classifier", "inception"),
    "precision": ("classifier", "inception"),
    "recall": ("classifier", "inception"),
    "kid": ("classifier", "inception"),
    "fd-dinov2": ("dinov2",),
}
METRIC_SCORERS: dict[Metric, ScorerName] = {
    "clip-score": "clip",
    "caption-accuracy": "reader",
    "held-out-accuracy": "reader",
}
"""Metrics that compare each picture with its caption, and what they are computed with."""
FIRST_IMAGES = 100
"""Images of every set that stay for figures when the others are deleted."""
DECODED_ELEMENTS = 32 * 4 * 32 * 32
"""Elements of latents that are decoded at a time: those of 32 images of 256 pixels."""

_NUMBER = {"type": "number"}
_NUMBER_OR_SWEEP = {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER, "minItems": 1}]}


class InternalGuidanceConfig(ConfigModel):
    """Internal Guidance in an interval of time (Zhou et al. 2025), beside classifier-free guidance.

    Only runs of the method `internal-guidance` are sampled so.
    """

    scale: float = 1.0
    """Scale s of v_mid + s (v - v_mid), of the velocity that the run's second output layer predicts
    and that of the last block; 1 is none (its authors' script: 1.4)."""
    low: UnitFloat = 0.0
    """First t that is guided so."""
    high: UnitFloat = 1.0
    """Last t that is guided so."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_interval(self.low, self.high)
        return self


class GuidanceConfig(ConfigModel):
    """Classifier-free guidance in an interval of time; outside it, the conditional pass alone."""

    scale: Annotated[float, WithJsonSchema(_NUMBER_OR_SWEEP)] = 1.0
    """Scale of v_u + scale (v_c - v_u); 1 is no guidance. A list is a sweep: a set of samples for
    each of its scales."""
    low: UnitFloat = 0.0
    """First t that is guided."""
    high: UnitFloat = 1.0
    """Last t that is guided."""
    channels: PositiveInt | None = None
    """First channels of the latent that are guided, all if it is not given; the others take the
    conditional velocity. SiT's published numbers guided three of four."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_interval(self.low, self.high)
        return self


def _check_interval(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low: {low} is above high {high}")


DOPRI5_TOLERANCES = {"rtol": 1e-3, "atol": 1e-6}
"""Those of SiT's code."""
SELECTION_FIELDS = {"checkpoints", "sweep"}
"""Keys of a sampler that say which sets are sampled, and not what is in them."""


class SamplerConfig(ConfigModel):
    """How one set of samples is generated from a checkpoint."""

    sampler: SamplerName
    """ODE (Euler, Heun, adaptive Dormand-Prince 5(4)) or SDE (Euler-Maruyama)."""
    num_steps: Annotated[int, Field(ge=2, le=10**6)] = 250
    """Steps from noise to data (SDE: grid points from 1 to 0.04, then one last step to 0). `dopri5`
    chooses its steps: the most that a sample may take, rejected ones included."""
    rtol: PositiveFloat | None = None
    """Relative tolerance of a step of `dopri5`, and of no other sampler (1e-3 if not given)."""
    atol: PositiveFloat | None = None
    """Absolute tolerance of a step of `dopri5`, and of no other sampler (1e-6 if not given)."""
    num_samples: Annotated[int, Field(ge=2, le=10**8)] = 10000
    """Images."""
    guidance: GuidanceConfig = GuidanceConfig()
    """Classifier-free guidance."""
    internal_guidance: InternalGuidanceConfig = InternalGuidanceConfig()
    """Internal Guidance; both velocities are guided before classifier-free guidance joins them."""
    weights: Weights = "ema"
    """Which weights are sampled."""
    labels: Literal["balanced", "random"] = "balanced"
    """Class of sample i: i modulo the number of classes, or sampled from (seed, i). Published
    numbers are of `random` ones; `balanced` ones lower the FID (REPA-E: by 0.04 at 1.26)."""
    seed: Seed = 0
    """Seed of labels, noise and SDE paths; sample i is a function of (seed, i)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the network; the state of the sampler is always float64. `tf32` rounds the
    factors of products on GPUs."""
    decoder_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the autoencoder's decoder. A published one may overflow in `fp16`, which ends
    the job."""
    uint8: Uint8Conversion = "round"
    """How pixels become 0 to 255: to the nearest level, or cut off (`truncate`), as by SiT's
    successors: half of all values differ, by one level."""
    checkpoints: Literal["all", "last"] | tuple[PositiveInt, ...] = "all"
    """Which checkpoints are sampled."""
    sweep: Name | None = None
    """The sweep that this set belongs to; filled in where `guidance.scale` is a list."""

    @model_validator(mode="before")
    @classmethod
    def _fill_tolerances(cls, values: Any) -> Any:
        """An adaptive sampler has tolerances, which are part of what identifies its samples."""
        if not isinstance(values, Mapping) or values.get("sampler") != "dopri5":
            return values
        filled = {key: value for key, value in DOPRI5_TOLERANCES.items() if values.get(key) is None}
        return {**values, **filled}

    @model_validator(mode="after")
    def _tolerances_are_used(self) -> Self:
        for key in DOPRI5_TOLERANCES:
            if self.sampler != "dopri5" and (value := getattr(self, key)) is not None:
                raise ValueError(
                    f"{key}: {value} is given for {self.sampler} (allowed: for dopri5)"
                )
        return self


class EvaluationConfig(ConfigModel):
    """What is measured, on which samples."""

    extractor: Literal["classifier", "inception"] = "classifier"
    """Feature network of every metric but `fd-dinov2`, which has its own."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("fid", "is")
    """Metrics to compute."""
    distances: DistanceArithmetic = "fp32"
    """Arithmetic of the distances of precision and recall; `adm` is half precision, as in the ADM
    evaluator, whose published numbers it is for."""
    clip: Line = "openai/clip-vit-large-patch14"
    """CLIP model of `clip-score`: a directory, or a name in the hub's cache."""
    keep_samples: bool = True
    """Keep all images; else they are deleted once their statistics are there, but for the first
    ones."""
    samplers: Annotated[dict[Name, SamplerConfig], Field(min_length=1)]
    """Sets of samples, by name."""

    @model_validator(mode="after")
    def _metrics_fit_the_extractor(self) -> Self:
        for metric in self.metrics:
            if metric in METRIC_SCORERS:
                continue
            allowed = METRIC_EXTRACTORS[metric]
            if self.extractor_of(metric) not in allowed:
                raise ValueError(
                    f"metrics: {metric!r} needs extractor {' or '.join(allowed)},"
                    f" found {self.extractor!r}"
                )
        return self

    def metrics_of(self, network: ExtractorName | ScorerName) -> tuple[Metric, ...]:
        """The metrics that are computed with an extractor or a scorer."""
        return tuple(metric for metric in self.metrics if self.computed_with(metric) == network)

    def computed_with(self, metric: Metric) -> ExtractorName | ScorerName:
        """What a metric is computed with."""
        return METRIC_SCORERS.get(metric) or self.extractor_of(metric)

    def extractor_of(self, metric: Metric) -> ExtractorName:
        """The extractor that a metric of features is computed with."""
        return "dinov2" if metric == "fd-dinov2" else self.extractor

    @property
    def extractors(self) -> tuple[ExtractorName, ...]:
        """Extractors required by the metrics."""
        features = (metric for metric in self.metrics if metric not in METRIC_SCORERS)
        return tuple(dict.fromkeys(map(self.extractor_of, features)))

    @property
    def scorers(self) -> tuple[ScorerName, ...]:
        """What has to compare pictures with captions for the metrics."""
        scorers = (METRIC_SCORERS.get(metric) for metric in self.metrics)
        return tuple(dict.fromkeys(scorer for scorer in scorers if scorer))

    @property
    def label_sequences(self) -> tuple[tuple[str, int], ...]:
        """How the samplers choose the classes of samples: the kind, and a seed where it counts."""
        random = ((one.labels, one.seed) for one in self.samplers.values())
        return tuple(sorted({(kind, seed if kind == "random" else 0) for kind, seed in random}))

    @property
    def sweeps(self) -> dict[str, tuple[str, ...]]:
        """The sets of samples of each sweep over the guidance scale."""
        names: dict[str, tuple[str, ...]] = {}
        for name, sampler in self.samplers.items():
            if sampler.sweep:
                names[sampler.sweep] = (*names.get(sampler.sweep, ()), name)
        return names
