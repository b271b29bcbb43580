"""What is drawn, what is asked about features, and grids of runs."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from selftrans.config.base import (
    ConfigModel,
    Label,
    Line,
    Name,
    PositiveFloat,
    PositiveInt,
    UnitFloat,
)
from selftrans.config.evaluation import FIRST_IMAGES
from selftrans.config.model import BackboneConfig


class GridConfig(ConfigModel):
    """A run, varied in some of its keys: a run for each combination of values, and a figure."""

    run: Name
    """The run that is varied; a combination that it has itself is that run."""
    vary: Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]], Field(min_length=1)]
    """Values of keys of the run, for instance `alignment.guidance_scale: [5, 15, 30]`; mappings
    under `alignment`, `model` or `training` change several keys below."""
    label: Label | None = None
    """Name in figures, with the values in place of `{0}`, `{1}`; `{0[low]}` is a key of a value."""
    runs: tuple[Name, ...] = ()
    """The grid's runs; filled in."""


class PublishedRow(ConfigModel):
    """A number that others published: a row of the headline table."""

    system: Label
    """What was trained, for instance `REPA, SiT-XL/2`."""
    training: Label
    """For how long, for instance `800 epochs`."""
    setting: Line
    """How it was sampled, as far as it is known."""
    fid: PositiveFloat
    """Of 50,000 images against ImageNet's training set, if the setting does not say otherwise."""
    source: Line
    """Where the number stands."""
    second_hand: bool = False
    """Whether the place itself could not be opened."""


class Published(ConfigModel):
    """What others published (`experiments/published/NAME.yaml`): curves, and rows of a table."""

    source: Line | None = None
    """Who published the curves, where, how they were read, and under which conditions."""
    metric: Literal["fid", "is"] = "fid"
    """What the curves show."""
    curves: dict[Name, Annotated[tuple[tuple[PositiveInt, float], ...], Field(min_length=1)]] = (
        Field(default_factory=dict)
    )
    """For runs of the experiment, optimizer steps and values, dashed behind ours."""
    rows: tuple[PublishedRow, ...] = ()
    """Numbers that stand beside ours in the headline table."""

    @model_validator(mode="after")
    def _curves_have_a_source(self) -> Self:
        if self.curves and not self.source:
            raise ValueError("source: is missing, and there are curves")
        return self


_FILE = WithJsonSchema({"type": ["string", "null"]})


class FiguresConfig(ConfigModel):
    """What is drawn."""

    sampler: Name
    """The sampler whose FID the convergence figure shows and whose images the sample figure
    shows."""
    sample_checkpoints: tuple[PositiveInt, ...]
    """Steps in the sample figure."""
    sample_columns: Annotated[int, Field(gt=0, le=FIRST_IMAGES)] = 10
    """Images per method and step in the sample figure: the first ones of the set."""
    also_samples_of: tuple[Name, ...] = ()
    """Further samplers whose images are shown, each in a figure `samples-NAME`. Of any other
    sampler, the figure is made when it is asked for."""
    published: Annotated[Published | None, _FILE] = None
    """Name of a file in `experiments/published/`, or the path of one."""
    baseline: Name | None = None
    """The run that the others are compared with, seed by seed; the first one, if it is not
    given."""
    width_inches: Annotated[float, Field(ge=1, le=50)] = 5.5
    """Width of a figure; 5.5 inches is the text width of most venues."""
    dpi: Annotated[int, Field(ge=10, le=2400)] = 200
    """Resolution of the PNGs."""


PROBE_FIELDS = {"encoder", "neighbours"}
"""Keys of an analysis that the features do not depend on."""


class AnalysisConfig(ConfigModel):
    """What is asked about the features of trained models; nothing of it touches a training."""

    encoder: Name | None = None
    """The data file's encoder whose features the blocks are compared with; none, if it is not
    given."""
    times: Annotated[tuple[UnitFloat, ...], Field(min_length=1)] = (0.1, 0.3, 0.5, 0.7)
    """Times t that images are noised to."""
    num_images: PositiveInt = 5000
    """Images that are probed, sampled from all; probes are tested on every tenth image of the data
    set."""
    neighbours: PositiveInt = 20
    """Neighbours k of the k-NN probe, by cosine."""
    shown_classes: Annotated[int, Field(gt=0, le=8)] = 3
    """Classes in the colour maps, evenly spread, with two images of each."""
    shown_time: UnitFloat = 0.5
    """Time of the colour maps and of the similarity between blocks; one of `times`."""
    shown_blocks: tuple[PositiveInt, ...] | None = None
    """Blocks in the colour maps; those at one third and two thirds of the depth, if they are not
    given."""
    guidance_scales: Annotated[tuple[float, ...], Field(min_length=1)] = (1.5, 5.0, 30.0)
    """Scales w of the guided features f_g that are shown beside the others."""

    @model_validator(mode="after")
    def _shown_time_is_analysed(self) -> Self:
        if self.shown_time not in self.times:
            allowed = ", ".join(map(str, self.times))
            raise ValueError(
                f"shown_time: {self.shown_time} is not one of `times` (allowed: {allowed})"
            )
        return self

    def blocks_shown(self, model: BackboneConfig) -> tuple[int, ...]:
        """The blocks of a model whose colours are shown."""
        thirds = (max(1, round(model.depth / 3)), max(1, round(2 * model.depth / 3)))
        return self.shown_blocks or tuple(dict.fromkeys(thirds))
