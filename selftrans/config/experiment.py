"""One comparison: runs that differ in what they say, and in nothing else."""

from typing import Annotated, Any

from pydantic import Field

from selftrans.config.alignment import (
    Alignment,
    AlignmentConfig,
    EncoderUse,
    FrozenTeacher,
    NoAlignment,
)
from selftrans.config.base import Condition, ConfigModel, Label, Name, PositiveInt, Seed
from selftrans.config.data import DatasetConfig
from selftrans.config.defaults import VERSION
from selftrans.config.evaluation import EvaluationConfig
from selftrans.config.figures import AnalysisConfig, FiguresConfig, GridConfig
from selftrans.config.model import Backbone
from selftrans.config.resources import ResourcesConfig
from selftrans.config.significance import SignificanceConfig
from selftrans.config.training import ImportedConfig, TrainingConfig
from selftrans.config.tuning import FollowedTuning, TuningConfig, applicable, value_of
from selftrans.runtime.errors import ConfigError


class RunConfig(ConfigModel):
    """One arm of the comparison."""

    label: Label | None = None
    """Name in figures and tables; the run's key if it is not given."""
    imported: ImportedConfig | None = None
    """A checkpoint that others trained: nothing is trained."""
    grid: Name | None = None
    """The grid that made this run; filled in."""
    alignment: Alignment = NoAlignment(method="none")
    """What trains beside denoising: one method, or a list whose weighted losses are added."""
    model: Backbone
    """Backbone; what is not given here is the experiment's."""
    training: TrainingConfig
    """Recipe; what is not given here is the experiment's."""

    @property
    def alignments(self) -> dict[str, AlignmentConfig]:
        """The terms of the loss beside denoising, by name: their method, numbered if it recurs."""
        if isinstance(self.alignment, NoAlignment):
            return {}
        terms = self.alignment if isinstance(self.alignment, tuple) else (self.alignment,)
        named: dict[str, AlignmentConfig] = {}
        for term in terms:
            method = term.method.rpartition(":")[2]
            count = sum(other.method == term.method for other in named.values())
            named[f"{method}-{count + 1}" if count else method] = term
        return named

    @property
    def teachers(self) -> dict[str, FrozenTeacher]:
        """The frozen teacher of each term that follows one, by the term's name."""
        return {
            name: teacher
            for name, term in self.alignments.items()
            if (teacher := term.frozen_teacher)
        }

    @property
    def encoders(self) -> tuple[EncoderUse, ...]:
        """The encoders that terms follow, each once."""
        uses = (term.encoder_use for term in self.alignments.values())
        return tuple(dict.fromkeys(use for use in uses if use))

    @property
    def intermediate_depth(self) -> int | None:
        """Block that a second output layer predicts the velocity behind, if a term trains one."""
        depths = (term.intermediate_depth for term in self.alignments.values())
        return next((depth for depth in depths if depth is not None), None)

    def group_problem(self, term: AlignmentConfig, processes: int = 1) -> str | None:
        """What is wrong with a term's groups of samples, if the batch is shared among processes."""
        size = self.training.batch_size // (processes * self.training.accumulate)
        if size % term.batch_group == 0:
            return None
        return (
            f"{term.batch_group} does not divide the {size} samples of a micro-batch"
            f" (batch_size {self.training.batch_size} over {processes} processes times"
            f" {self.training.accumulate})"
        )

    def check_processes(self, processes: int, where: str) -> None:
        """Refuse a number of processes that the global batch cannot be shared among.

        Raises:
            ConfigError: naming ``where`` the run is set.
        """
        self.training.check_processes(processes, where)
        for name, term in self.alignments.items():
            if problem := self.group_problem(term, processes):
                raise ConfigError(f"{where}: alignment {name!r}: group_size: {problem}")


class ExperimentConfig(ConfigModel):
    """One comparison: runs that differ in what they say, and in nothing else."""

    name: Name
    """Name under which the results lie; the file's name if it is not given."""
    defaults: PositiveInt = VERSION
    """Version of the defaults; that of its results if there are any, else the newest."""
    description: str = ""
    """One or two sentences for the reader."""
    data: DatasetConfig
    """Name of a data file in `experiments/data/`, or the path of one."""
    prompts: DatasetConfig | None = None
    """Name of a data file whose captions samples are made of, one image for each; those of `data`,
    if it is not given. For backbones that are conditioned on captions."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Every run is trained once for each seed."""
    model: Backbone
    """Backbone of every run."""
    training: TrainingConfig
    """Recipe of every run."""
    runs: Annotated[dict[Name, RunConfig], Field(min_length=1)]
    """The arms, by name; null leaves out a run of the experiment that is extended."""
    grids: dict[Name, GridConfig] = Field(default_factory=dict)
    """Runs that are varied, by name."""
    evaluation: EvaluationConfig
    """What is measured."""
    figures: FiguresConfig
    """Settings of the figures."""
    significance: SignificanceConfig = SignificanceConfig()
    """Which comparisons are tested, where there are several seeds."""
    tuning: TuningConfig | None = None
    """What every arm is tuned in; an experiment that tunes tests nothing."""
    tuned: Name | FollowedTuning | None = None
    """The experiment whose tuning the arms follow: `experiments/tuned/NAME.yaml`. Its seeds are
    not reported on. Written out with the seal of that file, it is not read again."""
    analysis: AnalysisConfig | None = None
    """What is asked about the features; nothing, if it is not given."""
    resources: ResourcesConfig = ResourcesConfig()
    """What the jobs request; the configuration of the workflow may override it."""

    @property
    def datasets(self) -> tuple[DatasetConfig, ...]:
        """What is learnt from, and whose captions are sampled."""
        return (self.data,) if self.prompts is None else (self.data, self.prompts)

    @property
    def condition(self) -> Condition:
        """What the backbones are conditioned on."""
        return next(iter(self.runs.values())).model.condition

    @property
    def baseline(self) -> str:
        """The run that the others are compared with."""
        return self.figures.baseline or next(iter(self.trained_runs or self.runs))

    @property
    def main_runs(self) -> dict[str, RunConfig]:
        """The runs in figures of the whole experiment: those that no grid made."""
        return {name: run for name, run in self.runs.items() if run.grid is None}

    @property
    def trained_runs(self) -> tuple[str, ...]:
        """Names of the runs that are not imported."""
        return tuple(name for name, run in self.runs.items() if not run.imported)

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the main runs that are trained: what is compared, and what is tuned."""
        return tuple(name for name in self.trained_runs if name in self.main_runs)

    def tuned_keys(self, arm: str) -> tuple[str, ...]:
        """The keys that are tuned and that an arm has."""
        assert self.tuning
        return tuple(applicable(self.tuning.ranges, aligned=arm in self.aligned_runs))

    def trial_values(self, arm: str) -> list[dict[str, Any]]:
        """The tuned keys as each trial of an arm has them."""
        keys, trials = self.tuned_keys(arm), self.grids[arm].runs
        return [{key: value_of(self.runs[trial], key) for key in keys} for trial in trials]

    @property
    def aligned_runs(self) -> tuple[str, ...]:
        """Names of the main runs that have an alignment loss."""
        return tuple(name for name, run in self.main_runs.items() if run.alignments)

    @property
    def compared_runs(self) -> tuple[str, ...]:
        """Trained main runs that seeds pair with the baseline: none with a single seed."""
        if self.tuning or len(self.seeds) < 2 or "fid" not in self.evaluation.metrics:
            return ()
        return tuple(run for run in self.arms if run != self.baseline)

    @property
    def planned_comparisons(self) -> tuple[tuple[str, str], ...]:
        """Run and opponent of every comparison that is tested."""
        if not self.compared_runs:
            return ()
        chosen = self.significance.against_baseline
        if chosen is None:
            chosen = self.compared_runs
        pairs = ((pair.run, pair.against) for pair in self.significance.pairs)
        return (*((run, self.baseline) for run in chosen), *pairs)

    def evaluated_steps(self, run: str, sampler: str) -> tuple[int, ...]:
        """The checkpoints of ``run`` that ``sampler`` is applied to.

        Internal Guidance is for the runs that train its output layer.
        """
        steps = self.runs[run].training.checkpoints
        internal = self.evaluation.samplers[sampler].internal_guidance
        if internal.scale != 1 and self.runs[run].intermediate_depth is None:
            return ()
        if self.runs[run].imported:  # its only checkpoint is what there is to sample
            return steps
        match self.evaluation.samplers[sampler].checkpoints:
            case "all":
                return steps
            case "last":
                return steps[-1:]
            case chosen:
                return tuple(step for step in steps if step in chosen)
