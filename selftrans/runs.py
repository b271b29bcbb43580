"""The list of an experiment's runs, ``runs.json``: where the results of each run and seed lie.

The workflow writes it whenever it is read; whoever reads results without it reads this list. Paths
are relative to the project's folder, unless they are absolute.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from selftrans.runtime.errors import Unavailable, UserError, shortened
from selftrans.runtime.files import read_fields

RESULTS = "results"
RUNS_FILE = "runs.json"


class _Record(BaseModel):
    """A part of the list; what a later version adds to it is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class TeacherRecord(_Record):
    """A frozen teacher that a run follows."""

    run: str
    step: int
    term: str = ""
    """Of the loss, that follows it."""
    file: str = ""


class RunRecord(_Record):
    """Where the results of one run and seed lie, those that another experiment owns resolved."""

    run: str
    label: str
    seed: int
    folder: str
    imported: bool
    checkpoints: list[int] = Field(min_length=1)
    batch_size: int
    teachers: list[TeacherRecord]
    captions: str = ""
    """Manifest of the captions that it is conditioned on; empty for a run of classes."""
    prompts: str = ""
    """Manifest of the captions that its samples are made of; empty for a run of classes."""
    features: list[str] = []
    """Manifests of encoders' stored features that it follows."""
    encoders: list[str] = []
    """Files of encoders that it follows on the images of every batch."""
    metrics: dict[Annotated[str, Field(pattern=r"^\d{1,15}$")], str]
    """By step, those of the sampler that the figures show."""

    def weights(self, root: Path, step: int, weights: str) -> Path:
        """The weight file of a checkpoint, whether or not it was trained yet."""
        return root / self.folder / "checkpoints" / str(step) / f"{weights}.safetensors"


class DataRecord(_Record):
    """Where the results lie that all runs of an experiment share."""

    name: str
    """Of the data."""
    latents: str
    """Manifest of the latent store."""
    autoencoder: str
    """Directory, or hub name, of what decodes the latents."""
    other_decoder: bool
    """Whether another autoencoder made them."""
    classifier: str
    """Weights of the embedded extractor."""
    references: dict[str, str]
    """Statistics of the reference images, by extractor."""
    class_names: list[str] = []
    """As the data file gives them."""


class RunList(_Record):
    """The runs of an experiment."""

    format: Literal[1]
    experiment: str
    sampler: str
    """The one that the figures show."""
    runs: list[RunRecord]
    file: str | None = None
    """The experiment with its defaults filled in; None in lists of an earlier version."""
    data: DataRecord | None = None

    def run(self, name: str, seed: int | None = None) -> RunRecord:
        """The record of a run, by its name and seed (its first one, if none is given).

        Raises:
            UserError: there is none, with those that there are.
        """
        seeds = {record.seed: record for record in self.runs if record.run == name}
        if not seeds:
            known = ", ".join(dict.fromkeys(record.run for record in self.runs))
            raise UserError(f"{name!r} is not a run of {self.experiment!r} (known: {known})")
        if seed is None:
            return next(iter(seeds.values()))
        if seed not in seeds:
            known = ", ".join(map(str, seeds))
            raise UserError(f"run {name!r} has no seed {seed} (known: {known})")
        return seeds[seed]


def read_runs(path: Path) -> RunList:
    """Read the list of an experiment's runs.

    Raises:
        Unavailable: it is absent, or cannot be read.
        UserError: it is damaged, or of another format.
    """
    content = read_fields(path)
    try:
        return RunList.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        found = shortened(repr(problem["input"]), 60)
        reason = shortened(f"{field} is {found} ({problem['msg']})", 300)
        raise UserError(f"{path}: damaged, {reason}") from None


def runs_file(project: Path, experiment: str) -> Path:
    """The list of an experiment's runs in a project's folder."""
    return project / RESULTS / experiment / RUNS_FILE


def find_project(experiment: str, start: Path) -> Path:
    """The nearest folder, ``start`` or one above it, that has results of an experiment.

    Raises:
        Unavailable: there is none, with the experiments that there are results of.
    """
    start = start.absolute()
    folders = (start, *start.parents)
    if experiment.isprintable() and "/" not in experiment:
        for folder in folders:
            if runs_file(folder, experiment).is_file():
                return folder
    known = (path.parent.name for one in folders for path in one.glob(f"{RESULTS}/*/{RUNS_FILE}"))
    raise Unavailable(
        f"{shortened(repr(experiment))}: no results of that experiment in {start} or a folder above"
        f" (looked for: {RESULTS} with a {RUNS_FILE}; known: {', '.join(sorted(known)) or 'none'})"
    )


class FoundRun(NamedTuple):
    """A run whose results a file is part of."""

    project: Path
    runs: RunList
    record: RunRecord


def find_run(file: Path) -> FoundRun | None:
    """The run and seed that a file, for instance of a checkpoint, is part of; None without one.

    Raises:
        UserError: the list of runs above it is damaged.
    """
    folders = file.absolute().parents
    for folder in folders:
        if (path := folder / RUNS_FILE).is_file() and folder.parent.name == RESULTS:
            runs, project = read_runs(path), folder.parents[1]
            for record in runs.runs:
                if project / record.folder in folders:
                    return FoundRun(project, runs, record)
    return None


def located(project: Path, reference: str) -> str:
    """A path of the list as it is found from anywhere; a hub's name stays what it is."""
    path = project / reference
    return str(path) if path.exists() else reference
