"""What ``config.yaml`` may say."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from selftrans.config import (
    ConfigModel,
    ExperimentConfig,
    Name,
    PositiveFloat,
    ResourcesConfig,
    merged,
    validated,
)


def _boolean(value: Any) -> Any:
    """Of ``--config fetch_weights=true``, Snakemake hands over text."""
    return (
        {"true": True, "false": False}.get(value.lower(), value)
        if isinstance(value, str)
        else value
    )


class RatesConfig(ConfigModel):
    """TFLOP/s that a GPU reaches in such networks: what plans and time limits rest on."""

    bf16: PositiveFloat = 100.0
    """In bf16 or fp16; the default is a third of an A100's peak."""
    tf32: PositiveFloat = 50.0
    """In fp32 with factors rounded to TF32; a third of an A100's peak."""
    fp32: PositiveFloat = 12.0
    """In fp32; 60 % of an A100's peak."""


class WorkflowConfig(ConfigModel):
    """Which experiments are run, and what their jobs ask for."""

    experiments: Annotated[tuple[str, ...], Field(min_length=1)] | str
    """Names in `experiments/`, or paths of experiment files."""
    data: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Changes to data files, by name: where images lie on this machine."""
    resources: dict[str, Any] = Field(default_factory=dict)
    """Changes to each experiment's `resources`."""
    rates: RatesConfig = RatesConfig()
    """What one of this machine's GPUs reaches."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Attempts at a training segment after the first. It resumes from the last saved state, so a
    time limit costs nothing. Those that its time limit needs by the stated rates are added."""
    weights: dict[Literal["inception", "dinov2"], str] = Field(default_factory=dict)
    """Where the weights of `inception` and `dinov2` lie; in the cache, if it is not set."""
    fetch_weights: Annotated[bool, BeforeValidator(_boolean)] = False
    """Download missing weights into the cache."""
    fork_jobs: Annotated[bool, BeforeValidator(_boolean)] = True
    """Fork jobs of one CPU thread from a process that has imported their libraries."""

    def references(self) -> tuple[str, ...]:
        """The experiments, as a tuple also where a single one is set."""
        return (self.experiments,) if isinstance(self.experiments, str) else self.experiments

    def job_kinds(self, experiment: ExperimentConfig) -> ResourcesConfig:
        """What an experiment's jobs ask for.

        Raises:
            ConfigError: in one line, the key that is wrong.
        """
        changed = merged(experiment.resources.model_dump(), self.resources)
        return validated(ResourcesConfig, changed, "config.yaml: resources")
