"""Which experiment owns a result: the one that it was changed in, or the one that it comes from."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from selftrans.config import (
    PROBE_FIELDS,
    SELECTION_FIELDS,
    ExperimentConfig,
    ExtractorName,
    ScorerName,
    run_definition,
    run_differences,
)
from workflow.lib.paths import EXPERIMENT


class Ownership:
    """Answers for every result of every experiment.

    Args:
        known: the experiments, by name.
        parents: the experiment that an experiment extends, by name.
    """

    def __init__(self, known: Mapping[str, ExperimentConfig], parents: Mapping[str, str]) -> None:
        self.known, self.parents = known, parents
        self.run = cache(self._run)  # asked for every path of a call

    def _run(self, experiment: str, run: str) -> str:
        """The owner of a run's checkpoints.

        What was trained under the experiment's own path before it could be shared stays in use.
        Trials of a tuning are its own: once it is found and used, the parent's runs are others.
        """
        parent = self.parents.get(experiment)
        if parent is None or self.known[experiment].tuning is not None:
            return experiment
        if not self._same_run(experiment, parent, run):
            return experiment
        own = Path(EXPERIMENT.format(experiment=experiment), "runs", run)
        owner = self.run(parent, run)
        theirs = Path(EXPERIMENT.format(experiment=owner), "runs", run)
        return experiment if _was_made(own) and not _was_made(theirs) else owner

    def samples(self, experiment: str, run: str, sampler: str) -> str:
        """The owner of a sampler's images of a run, and of their statistics."""
        parent = self._parent_of_shared_run(experiment, run)
        if parent is None or sampler not in self.known[parent].evaluation.samplers:
            return experiment
        samplers = (self.known[name].evaluation.samplers[sampler] for name in (experiment, parent))
        first, second = (one.model_dump(exclude=SELECTION_FIELDS) for one in samplers)
        same = first == second and self._same_prompts(experiment, parent)
        return self.samples(parent, run, sampler) if same else experiment

    def metrics(
        self, experiment: str, run: str, sampler: str, extractor: ExtractorName | ScorerName
    ) -> str:
        """The owner of the metrics of these images."""
        parent = self._parent_of_shared_run(experiment, run)
        if parent is None or self.samples(experiment, run, sampler) == experiment:
            return experiment
        first, second = (self.known[name] for name in (experiment, parent))
        same = (
            first.evaluation.metrics_of(extractor) == second.evaluation.metrics_of(extractor)
            and first.evaluation.distances == second.evaluation.distances
            and first.evaluation.clip == second.evaluation.clip
            and first.data.name == second.data.name
        )
        return self.metrics(parent, run, sampler, extractor) if same else experiment

    def features(self, experiment: str, run: str) -> str:
        """The owner of the features of a run's blocks."""
        parent = self._parent_of_shared_run(experiment, run)
        if parent is None:
            return experiment
        first, second = (self.known[name] for name in (experiment, parent))
        if first.analysis is None or second.analysis is None:
            return experiment
        same = (
            first.analysis.model_dump(exclude=PROBE_FIELDS)
            == second.analysis.model_dump(exclude=PROBE_FIELDS)
            and first.runs[run].training.checkpoints == second.runs[run].training.checkpoints
        )
        return self.features(parent, run) if same else experiment

    def probes(self, experiment: str, run: str) -> str:
        """The owner of the probes of these features."""
        parent = self.parents.get(experiment)
        if parent is None or self.features(experiment, run) == experiment:
            return experiment
        first, second = (self.known[name].analysis for name in (experiment, parent))
        same = first and second and first.neighbours == second.neighbours
        return self.probes(parent, run) if same else experiment

    def examples(self, experiment: str) -> str:
        """The owner of the real images that stand beside an experiment's samples."""
        parent = self.parents.get(experiment)
        if parent is None:
            return experiment
        first, second = (self.known[name] for name in (experiment, parent))
        same = (
            first.data.name == second.data.name
            and first.figures.sample_columns == second.figures.sample_columns
            and first.evaluation.label_sequences == second.evaluation.label_sequences
            and self._same_prompts(experiment, parent)
        )
        return self.examples(parent) if same else experiment

    def _same_prompts(self, experiment: str, parent: str) -> bool:
        """Whether both sample the captions of one data set, if any."""
        first, second = (self.known[name].datasets[-1].name for name in (experiment, parent))
        return first == second

    def _parent_of_shared_run(self, experiment: str, run: str) -> str | None:
        """The experiment that is extended, if both have the same run in the same place."""
        parent = self.parents.get(experiment)
        if parent is None or run not in self.known[parent].runs:
            return None
        return parent if self.run(experiment, run) == self.run(parent, run) else None

    def _same_run(self, experiment: str, parent: str, run: str) -> bool:
        first, second = self.known[experiment], self.known[parent]
        if run not in second.runs or first.data.name != second.data.name:
            return False
        if first.runs[run].imported != second.runs[run].imported:
            return False
        definition = run_definition(second, run, seed=0)
        return not any(run_differences(first, run, 0, definition))


def _was_made(directory: Path) -> bool:
    return any(directory.glob("seed*/checkpoints/*")) or any(directory.glob("seed*/state/*"))
