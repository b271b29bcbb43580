"""The experiments of one call, checked before any job, and what they share."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from selftrans.config import (
    DATA_FILES,
    EXTRACTORS,
    SCORERS,
    ConfigModel,
    DatasetConfig,
    ExperimentConfig,
    ExtractorName,
    ResourcesConfig,
    RunConfig,
    ScorerName,
    extended_experiment,
    load_experiment,
    read_yaml,
    validated,
)
from selftrans.runtime.errors import ConfigError
from selftrans.runtime.files import write_text
from selftrans.training.definition import check_definition
from workflow.lib.ownership import Ownership
from workflow.lib.paths import DATA_FILE, EXPERIMENT_FILE, RUN, Wildcards, fill
from workflow.lib.settings import WorkflowConfig


class Kept(NamedTuple):
    """A study as it was when a job was submitted."""

    settings: dict[str, Any]
    """What ``config.yaml`` said."""
    requested: list[str]
    """Names of the experiments."""
    parents: dict[str, str]
    files: dict[str, str]
    """The kept copy of each resolved file."""


class Study:
    """The experiments of one call, and those that they extend.

    An experiment asks the study where each of its results lies: the *owner* of a run, of a set of
    samples, of metrics, of features or of probes is the experiment in whose directory it lies.
    Every path goes through these questions. The job that makes a result knows only its owner.

    With ``extends``, what an experiment leaves as it is belongs to the experiment that it extends:
    a run whose definition is the same, a set of samples of such a run whose sampler is the same,
    and so on. What it changes or adds is its own.

    Attributes:
        settings: what ``config.yaml`` says.
        references: the names or paths by which the experiments were requested.
        experiments: the requested experiments, by name.
        known: these, and those that they extend.
        parents: the experiment that an experiment extends, by name.
        datasets: the data sets of the requested experiments, by name.
        resources: what their jobs request, by the experiment's name.
    """

    def __init__(self, settings: WorkflowConfig, kept: Kept | None = None) -> None:
        self.settings, self._kept = settings, kept
        self.references = settings.references()
        if kept is not None:
            self.references = tuple(map(self._kept_experiment, kept.requested))
        self.experiments: dict[str, ExperimentConfig] = {}
        self.known: dict[str, ExperimentConfig] = {}
        self.parents: dict[str, str] = {}
        self.datasets: dict[str, DatasetConfig] = {}
        self.resources: dict[str, ResourcesConfig] = {}
        for reference in self.references:
            experiment = self._load(reference)
            if experiment.name in self.experiments:
                raise ConfigError(f"config.yaml: experiments: {experiment.name!r} is listed twice")
            self.experiments[experiment.name] = experiment
            self._add(reference, experiment)
        for reference, experiment in zip(self.references, self.experiments.values(), strict=True):
            self._add_extended(reference, experiment)
        self._check_data_changes()
        self._check_imported_runs()
        self.ownership = Ownership(self.known, self.parents)

    @classmethod
    def load(cls, config: Mapping[str, Any], file: str = "config.yaml") -> "Study":
        """The study that a configuration describes; nothing trained is looked at.

        Raises:
            UserError: in one line, the file and the key.
        """
        return cls(validated(WorkflowConfig, config, file))

    @classmethod
    def open(cls, config: Mapping[str, Any]) -> "Study":
        """The study that a configuration describes, ready for its jobs.

        Raises:
            UserError: in one line, the file and the key; or a run that was trained otherwise.
        """
        study = cls.load(config)
        study.check_trained_runs()
        study.write_resolved()
        return study

    @classmethod
    def of_job(cls, kept: Kept) -> "Study":
        """The study that a job was submitted with.

        Raises:
            UserError: as ``open``.
        """
        study = cls(validated(WorkflowConfig, kept.settings, "what was submitted"), kept)
        study.check_trained_runs()
        return study

    def requested_as(self, name: str) -> str:
        """The name or path by which an experiment was requested, also in a job."""
        return dict(zip(self.experiments, self.settings.references(), strict=True))[name]

    def _load(self, reference: str | Path) -> ExperimentConfig:
        if self._kept is not None:
            return load_experiment(reference)
        return load_experiment(reference, self.settings.data, recorded_defaults)

    def _kept_experiment(self, name: str) -> str:
        assert self._kept is not None
        return self._kept.files[EXPERIMENT_FILE.format(experiment=name)]

    def _extended(self, reference: str | Path, name: str) -> str | Path | None:
        """The file of the experiment that an experiment extends."""
        if self._kept is None:
            return extended_experiment(reference)
        parent = self._kept.parents.get(name)
        return None if parent is None else self._kept_experiment(parent)

    def _add(self, reference: str | Path, experiment: ExperimentConfig) -> None:
        """Make an experiment known.

        Raises:
            ConfigError: it cannot stand beside the others, or its processes cannot share a batch.
        """
        name = experiment.name
        if self.known.setdefault(name, experiment) != experiment:
            raise ConfigError(f"{reference}: name: {name!r} is the name of another experiment, too")
        for data in experiment.datasets:
            if self.datasets.setdefault(data.name, data) != data:
                raise ConfigError(
                    f"{reference}: data: {data.name!r} is defined otherwise by another experiment"
                )
        self.resources[name] = self.settings.job_kinds(experiment)
        train = self.resources[name].train
        for run, settings in experiment.runs.items():
            if settings.imported and len(experiment.seeds) > 1:
                raise ConfigError(
                    f"{reference}: runs.{run}.imported: a checkpoint has one seed,"
                    f" the experiment has {len(experiment.seeds)}"
                )
            if not settings.imported:
                settings.check_processes(train.workers, str(reference))

    def _add_extended(self, reference: str | Path, experiment: ExperimentConfig) -> None:
        """Make known what an experiment extends: it owns what is left as it is."""
        path = self._extended(reference, experiment.name)
        if path is None:
            return
        name, parent = experiment.name, self._load(path)
        if name == parent.name:
            raise ConfigError(f"{reference}: name: {name!r} is the name of what it extends, too")
        self.parents[name] = parent.name
        self._add(path, parent)
        self._add_extended(path, parent)

    def _check_data_changes(self) -> None:
        """Refuse changes to a data file that does not exist."""
        known = {path.stem for path in DATA_FILES.glob("*.yaml")} | self.datasets.keys()
        if unknown := self.settings.data.keys() - known:
            raise ConfigError(
                f"config.yaml: data: {min(unknown)!r} is not a data file"
                f" (allowed: {', '.join(sorted(known))})"
            )

    def _check_imported_runs(self) -> None:
        """Refuse a name that is a trained run here and an imported one there: one rule makes it."""
        if both := set(self.imported_runs) & set(self.trained_runs):
            raise ConfigError(
                f"config.yaml: experiments: run {min(both)!r} is trained in one of them"
                " and imported in another"
            )

    def check_trained_runs(self) -> None:
        """Refuse a run that was trained under another definition.

        Raises:
            UserError: in one line, the keys that differ, and the experiments that share the run.
        """
        owned = dict.fromkeys(
            (self.run_owner(name, run), run)
            for name, experiment in self.experiments.items()
            for run in experiment.trained_runs
        )
        for owner, run in owned:
            sharing = self._sharing(self.known, owner, run)
            hint = f" It is shared by {', '.join(sharing)}." if len(sharing) > 1 else ""
            for seed in self.seeds_of(owner, run):
                directory = Path(RUN.format(experiment=owner, run=run, seed=seed))
                check_definition(directory, self.known[owner], run, seed, hint=hint)

    def write_resolved(self) -> None:
        """Write every experiment and data set with its defaults filled in: what jobs read.

        Written here and not by a rule, since their age means nothing: a job runs again when its
        params change.
        """
        for path, settings in self.resolved_files().items():
            content = resolved(settings)
            if not path.is_file() or path.read_text(encoding="utf-8") != content:
                write_text(path, content)

    def resolved_files(self) -> dict[Path, ConfigModel]:
        """Every data set and experiment, by the file that holds it with its defaults filled in."""
        files: dict[Path, ConfigModel] = {}
        for name, data in self.datasets.items():
            files[Path(DATA_FILE.format(dataset=name))] = data
        for name, experiment in self.known.items():
            files[Path(EXPERIMENT_FILE.format(experiment=name))] = experiment
        return files

    def experiment_file(self, wildcards: Wildcards) -> str:
        """The resolved experiment that a job reads."""
        return self._file(fill(EXPERIMENT_FILE, wildcards))

    def data_file(self, wildcards: Wildcards) -> str:
        """The resolved data set that a job reads."""
        return self._file(DATA_FILE.format(dataset=self.data_of(wildcards).name))

    def _file(self, path: str) -> str:
        return path if self._kept is None else self._kept.files[path]

    # -- where results lie

    def run_owner(self, experiment: str, run: str) -> str:
        """The experiment that has the checkpoints and frozen teachers of a run."""
        return self.ownership.run(experiment, run)

    def samples_owner(self, experiment: str, run: str, sampler: str) -> str:
        """The experiment that has the images of a sampler and their statistics."""
        return self.ownership.samples(experiment, run, sampler)

    def metrics_owner(
        self, experiment: str, run: str, sampler: str, extractor: ExtractorName | ScorerName
    ) -> str:
        """The experiment that has the metrics of a sampler's images."""
        return self.ownership.metrics(experiment, run, sampler, extractor)

    def features_owner(self, experiment: str, run: str) -> str:
        """The experiment that has the features of a run's blocks."""
        return self.ownership.features(experiment, run)

    def probes_owner(self, experiment: str, run: str) -> str:
        """The experiment that has the probes of these features."""
        return self.ownership.probes(experiment, run)

    def examples_owner(self, experiment: str) -> str:
        """The experiment that has the real images beside an experiment's samples."""
        return self.ownership.examples(experiment)

    def checkpoints_of(self, owner: str, run: str) -> tuple[int, ...]:
        """All checkpoints of a run that are requested of its owner, ascending."""
        sharing = self._sharing(self.experiments, owner, run) or [owner]
        runs = (self.known[name].runs[run] for name in sharing)
        return tuple(sorted({step for one in runs for step in one.training.checkpoints}))

    def seeds_of(self, owner: str, run: str) -> tuple[int, ...]:
        """All seeds of a run that are requested of its owner."""
        sharing = self._sharing(self.experiments, owner, run) or [owner]
        return tuple(sorted({seed for name in sharing for seed in self.known[name].seeds}))

    def _sharing(self, among: Iterable[str], owner: str, run: str) -> list[str]:
        """The experiments whose run of that name is the owner's."""
        return [
            name
            for name in among
            if run in self.known[name].runs and self.run_owner(name, run) == owner
        ]

    # -- what a job is about

    def experiment_of(self, wildcards: Wildcards) -> ExperimentConfig:
        """The experiment that owns a job's result."""
        return self.known[wildcards["experiment"]]

    def data_of(self, wildcards: Wildcards) -> DatasetConfig:
        """A job's data set: its own, or that of its experiment."""
        if "dataset" in wildcards.keys():  # noqa: SIM118 - Snakemake's object is a list
            return self.datasets[wildcards["dataset"]]
        return self.experiment_of(wildcards).data

    def run_of(self, wildcards: Wildcards) -> RunConfig:
        """The settings of a job's run."""
        return self.experiment_of(wildcards).runs[wildcards["run"]]

    def resources_of(self, wildcards: Wildcards) -> ResourcesConfig:
        """What a job may ask for: by its experiment, or by the first one that uses its data set."""
        if "experiment" in wildcards.keys():  # noqa: SIM118 - Snakemake's object is a list
            return self.resources[wildcards["experiment"]]
        dataset = wildcards["dataset"]
        users = (
            name
            for name, one in self.known.items()
            if any(data.name == dataset for data in one.datasets)
        )
        return self.resources[next(users)]

    # -- the names that rules are restricted to

    @property
    def trained_runs(self) -> tuple[str, ...]:
        """Names of the runs that are trained, in any experiment."""
        return _unique(run for one in self.known.values() for run in one.trained_runs)

    @property
    def imported_runs(self) -> tuple[str, ...]:
        """Names of the runs that are imported checkpoints, in any experiment."""
        known = self.known.values()
        return _unique(name for one in known for name, run in one.runs.items() if run.imported)

    @property
    def analysed(self) -> tuple[str, ...]:
        """Experiments that analyse features."""
        return tuple(name for name, one in self.known.items() if one.analysis)

    @property
    def keeping_samples(self) -> tuple[str, ...]:
        """Experiments that keep all images."""
        return tuple(name for name, one in self.known.items() if one.evaluation.keep_samples)

    @property
    def on_one_node(self) -> tuple[str, ...]:
        """Experiments that train on a single node."""
        return tuple(name for name in self.known if self.resources[name].train.nodes == 1)

    def wildcard_constraints(self) -> dict[str, str]:
        """Regular expressions of all wildcards: the names in use, nothing else."""
        known, datasets = self.known.values(), self.datasets.values()
        return {
            "experiment": one_of(self.known),
            "dataset": one_of(self.datasets),
            "run": one_of(run for one in known for run in one.runs),
            "sampler": one_of(name for one in known for name in one.evaluation.samplers),
            "extractor": one_of((*EXTRACTORS, *SCORERS)),
            "encoder": one_of(name for data in datasets for name in data.encoders),
            "grid": one_of(grid for one in known for grid in one.grids),
            "sweep": one_of(sweep for one in known for sweep in one.evaluation.sweeps),
            "weights": "ema|raw",
            "seed": r"\d+",
            "step": r"\d+",
            "depth": r"\d+",
            "number": r"\d+",
        }

    def experiments_except(self, names: Iterable[str]) -> tuple[str, ...]:
        """The other experiments."""
        return tuple(name for name in self.known if name not in set(names))


def one_of(names: Iterable[str]) -> str:
    """A wildcard constraint that admits exactly these names; it matches nothing without any."""
    return "|".join(map(re.escape, sorted(set(names)))) or "(?!)"


def recorded_defaults(name: str) -> int | None:
    """The version of the defaults that existing results were made with.

    Args:
        name: of an experiment, or ``data/NAME`` of a data set.
    """
    kind, _, dataset = name.rpartition("/")
    file = DATA_FILE.format(dataset=dataset) if kind else EXPERIMENT_FILE.format(experiment=name)
    if not (path := Path(file)).is_file():
        return None
    version = read_yaml(path).get("defaults", 1)  # the first resolved files named none
    return version if isinstance(version, int) else None


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def resolved(settings: ConfigModel) -> str:
    """An experiment or a data set as YAML, with its defaults filled in."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
