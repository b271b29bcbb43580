"""Which comparisons of runs are tested: written down before the first run is trained."""

from typing import Annotated

from pydantic import Field

from selftrans.config.base import ConfigModel, Name


class PlannedComparison(ConfigModel):
    """A run that is tested against another one."""

    run: Name
    """The run."""
    against: Name
    """What it is compared with, seed by seed."""


class SignificanceConfig(ConfigModel):
    """The family of comparisons that are tested, by the area under the curve of log FID.

    Runs outside it are described, and have no p-value.
    """

    against_baseline: tuple[Name, ...] | None = None
    """Runs that are tested against the baseline; if it is not given, every other run that is
    trained here and that no grid made."""
    pairs: tuple[PlannedComparison, ...] = ()
    """Further comparisons."""
    resamples: Annotated[int, Field(ge=0, le=100_000)] = 0
    """How often the images of each set at the last checkpoint are resampled, for an interval of
    its FID; 0: there is none."""
