"""What jobs request."""

from typing import Annotated

from pydantic import Field

from selftrans.config.base import ConfigModel, PositiveInt


class JobResources(ConfigModel):
    """What a rule requests of the scheduler."""

    threads: PositiveInt = 1
    """CPU threads."""
    mem_mb: PositiveInt | None = None
    """Memory of a node in MB; estimated from the experiment, if it is not given."""
    runtime: PositiveInt | None = None
    """Time limit in minutes. If it is not given: what the work takes on GPUs by the stated rates,
    and half as much again; 60 on a CPU. A profile may set a ceiling (`max_runtime`)."""
    gpu: Annotated[int, Field(ge=0)] = 0
    """GPUs; one process for each."""
    nodes: PositiveInt = 1
    """Nodes that a training's GPUs or processes are shared among; several are started by `srun`."""
    processes: PositiveInt = 1
    """Processes where there is no GPU."""
    batch_size: PositiveInt = 256
    """Images at a time where images are sampled or seen by an extractor; results depend on it by
    rounding at most."""

    @property
    def workers(self) -> int:
        """Processes of a job: one for each GPU, where there are GPUs."""
        return self.gpu or self.processes


class ResourcesConfig(ConfigModel):
    """What each kind of job requests."""

    data: JobResources = JobResources()
    """Autoencoder, classifier, encoders, reference statistics."""
    extract: JobResources = JobResources()
    """Latents and encoders' features, on any number of GPUs or processes; each decodes images in
    its share of the threads."""
    train: JobResources = JobResources()
    """One segment of a training."""
    generate: JobResources = JobResources()
    """One set of samples."""
    evaluate: JobResources = JobResources()
    """Features and statistics of one set of samples."""
    light: JobResources = JobResources(mem_mb=1000, runtime=10)
    """Numbers, tables and figures from saved statistics."""
