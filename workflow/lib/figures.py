"""Tables and figures: which there are, and what each of them shows."""

from pathlib import Path
from typing import Any, NamedTuple

from selftrans.config import ExperimentConfig, TrainedEncoderConfig
from selftrans.runtime.files import sha256_of
from workflow.lib import paths
from workflow.lib.evaluation import Evaluation
from workflow.lib.paths import Job, Wildcards, fill
from workflow.lib.study import Study
from workflow.lib.training import Training

FORMATS = ("png", "pdf")


class FigureKind(NamedTuple):
    """What figures of a kind are called, and which file of ``workflow/report/`` explains them."""

    title: str
    caption: str


KINDS = {
    "convergence": FigureKind("Convergence", "convergence"),
    "samples": FigureKind("Samples", "samples"),
    "comparison": FigureKind("Quality against steps and training time", "comparison"),
    "significance": FigureKind("What is more than chance", "significance"),
    "losses": FigureKind("Losses", "losses"),
    "grid": FigureKind("Variants of a run", "grid"),
    "sweep": FigureKind("Sweep over the guidance scale", "sweep"),
    "dynamics": FigureKind("Training dynamics", "dynamics"),
    "discriminability": FigureKind("What probes read off the features", "discriminability"),
    "feature-maps": FigureKind("Feature maps", "feature_maps"),
    "similarity": FigureKind("Similarity between blocks", "similarity"),
    "guiding-features": FigureKind("Features that alignments follow", "guiding_features"),
}
"""By the name of a figure, or by its beginning: the rest is a run, a grid or a sweep."""


def figure_kind(name: str) -> tuple[str, str]:
    """The kind of a figure, and the run, grid or sweep that it shows; empty if it shows all."""
    if name in KINDS:
        return name, ""
    kind, _, shown = name.partition("-")
    return kind, shown


def entry_labels(kind: str, **shown: str) -> dict[str, str]:
    """What an entry of the report is called: the title of its kind, and what it shows."""
    return {"content": KINDS[kind].title, **shown}


def figure_names(experiment: ExperimentConfig) -> tuple[str, ...]:
    """All figures of an experiment."""
    names = ["convergence", "samples"]
    names += [f"samples-{sampler}" for sampler in experiment.figures.also_samples_of]
    names += ["losses", "comparison"] if experiment.trained_runs else []
    names += ["significance"] if experiment.compared_runs else []
    names += [f"grid-{grid}" for grid in experiment.grids]
    names += [f"sweep-{sweep}" for sweep in experiment.evaluation.sweeps]
    names += [f"dynamics-{run}" for run in experiment.aligned_runs]
    if experiment.analysis:
        names += ["discriminability", "feature-maps", "similarity"]
        names += ["guiding-features"] if experiment.aligned_runs else []
    return tuple(names)


def plot_script(name: str) -> dict[str, str]:
    """The script of a plot, and its digest: a figure whose script changes is drawn again."""
    script = Path(__file__).parents[1] / f"scripts/{name}.py"
    return {"name": script.name, "digest": sha256_of(script)}


class Figures:
    """Input and params functions of tables and figures, by the wildcard ``experiment``."""

    def __init__(self, study: Study, training: Training, evaluation: Evaluation) -> None:
        self.study, self.training, self.evaluation = study, training, evaluation

    def _experiment(self, wildcards: Wildcards) -> ExperimentConfig:
        return self.study.experiment_of(wildcards)

    def targets(self) -> list[str]:
        """Every figure in every format."""
        return [
            f"{paths.FIGURES.format(experiment=name)}/{figure}.{suffix}"
            for name, experiment in self.study.experiments.items()
            for figure in figure_names(experiment)
            for suffix in FORMATS
        ]

    # -- names

    def run_labels(self, wildcards: Wildcards) -> dict[str, str]:
        """The runs' names in tables, in the order of the experiment file."""
        runs = self._experiment(wildcards).runs
        return {name: run.label or name for name, run in runs.items()}

    def main_labels(self, wildcards: Wildcards) -> dict[str, str]:
        """The runs' names in figures of the whole experiment."""
        return self._labels_of(wildcards, self._experiment(wildcards).main_runs)

    def compared_labels(self, wildcards: Wildcards) -> dict[str, str]:
        """The same of the runs that are trained here: the cost of an imported one is not known."""
        main, trained = self.main_labels(wildcards), self._experiment(wildcards).trained_runs
        return {name: label for name, label in main.items() if name in trained}

    def grid_labels(self, wildcards: Wildcards) -> dict[str, str]:
        """The names of a grid's runs, in the grid's order."""
        grid = self._experiment(wildcards).grids[wildcards["grid"]]
        labels = self.run_labels(wildcards)
        return {run: labels[run] for run in grid.runs}

    def _labels_of(self, wildcards: Wildcards, runs: Any) -> dict[str, str]:
        labels = self.run_labels(wildcards)
        return {name: label for name, label in labels.items() if name in runs}

    def main_runs(self, wildcards: Wildcards) -> list[str]:
        """The runs whose features are shown, in the order of the inputs."""
        return list(self._experiment(wildcards).main_runs)

    def aligned_runs(self, wildcards: Wildcards) -> tuple[str, ...]:
        """The main runs that have an alignment, in the order of the inputs."""
        return self._experiment(wildcards).aligned_runs

    def imported_runs(self, wildcards: Wildcards) -> list[str]:
        """The imported runs, which are levels in the figures."""
        return [name for name, run in self._experiment(wildcards).runs.items() if run.imported]

    def baseline(self, wildcards: Wildcards) -> str:
        """The run that the others are compared with."""
        return self._experiment(wildcards).baseline

    # -- settings

    def style(self, wildcards: Wildcards) -> dict[str, float]:
        """Width and resolution."""
        figures = self._experiment(wildcards).figures
        return {"width_inches": figures.width_inches, "dpi": figures.dpi}

    def sampler(self, wildcards: Wildcards) -> str:
        """The sampler whose metrics and images are shown."""
        return self._experiment(wildcards).figures.sampler

    def columns(self, wildcards: Wildcards) -> int:
        """Images in a row of the sample figure."""
        return self._experiment(wildcards).figures.sample_columns

    def published(self, wildcards: Wildcards) -> dict[str, Any] | None:
        """Published curves of an experiment's runs."""
        published = self._experiment(wildcards).figures.published
        return published.model_dump(exclude={"rows"}) if published and published.curves else None

    def published_rows(self, wildcards: Wildcards) -> list[dict[str, Any]]:
        """Published numbers beside ours in the headline table."""
        published = self._experiment(wildcards).figures.published
        return [row.model_dump() for row in published.rows] if published else []

    def stand_ins(self, wildcards: Wildcards) -> str:
        """Lines below tables: ``stand_in_notes``; empty without any."""
        return "".join(f"\n{note}\n" for note in self.stand_in_notes(wildcards))

    def stand_in_notes(self, wildcards: Wildcards) -> list[str]:
        """A sentence for each encoder that has seen labels."""
        experiment = self._experiment(wildcards)
        followed = (use.name for run in experiment.runs.values() for use in run.encoders)
        return [
            f"Encoder {name}: a stand-in, trained here on the labels of {experiment.data.name}."
            for name in dict.fromkeys(followed)
            if isinstance(experiment.data.encoders[name], TrainedEncoderConfig)
        ]

    def maskings(self, wildcards: Wildcards) -> dict[str, str]:
        """The mask of the t range of each run that has one."""
        runs = self._experiment(wildcards).runs

        def of(run: str) -> str:
            masks = [term.time_masking for term in runs[run].alignments.values()]
            found: list[str] = [mask for mask in masks if mask]
            found += [
                f"teacher {mask}"
                for teacher in runs[run].teachers.values()
                if (mask := of(teacher.choice.run)) not in ("", *found)
            ]
            return ", ".join(dict.fromkeys(found))

        return {run: mask for run in runs if (mask := of(run))}

    def sweep_sets(self, wildcards: Wildcards) -> list[str]:
        """Names of a sweep's sets of samples, by ascending guidance scale."""
        evaluation = self._experiment(wildcards).evaluation
        names = evaluation.sweeps[wildcards["sweep"]]
        return sorted(names, key=lambda name: evaluation.samplers[name].guidance.scale)

    # -- histories

    def last_segments(self, wildcards: Wildcards) -> list[Job]:
        """The last checkpoint of every main run and seed, whose history is the whole training's."""
        runs = self._experiment(wildcards).main_runs
        last = {name: run.training.checkpoints[-1] for name, run in runs.items()}
        segments = self.training.segments(wildcards["experiment"])
        return [segment for segment in segments if segment["step"] == last.get(segment["run"])]

    def last_histories(self, wildcards: Wildcards) -> list[str]:
        """The whole history of every main run and seed."""
        return [fill(paths.HISTORY, segment) for segment in self.last_segments(wildcards)]

    def last_history_runs(self, wildcards: Wildcards) -> list[str]:
        """The runs of these histories."""
        return [segment["run"] for segment in self.last_segments(wildcards)]

    def histories_of_run(self, wildcards: Wildcards) -> list[str]:
        """The whole history of every seed of a run."""
        segments = self.last_segments(wildcards)
        own = [segment for segment in segments if segment["run"] == wildcards["run"]]
        return [fill(paths.HISTORY, segment) for segment in own]

    # -- comparison

    def checkpoint_records(self, wildcards: Wildcards) -> list[str]:
        """The record of every checkpoint, which has its time."""
        segments = self.training.segments(wildcards["experiment"])
        return [fill(paths.CHECKPOINT_RECORD, segment) for segment in segments]

    def compared_checkpoints(self, wildcards: Wildcards) -> list[tuple[str, int, int]]:
        """Run, seed and step of these records."""
        segments = self.training.segments(wildcards["experiment"])
        return [(segment["run"], segment["seed"], segment["step"]) for segment in segments]

    def teachers_of_runs(self, wildcards: Wildcards) -> dict[str, list[tuple[str, int]]]:
        """Run and step of every run's teachers, but for imported ones, whose cost is not known."""
        experiment = self._experiment(wildcards)
        return {
            name: [
                (teacher.choice.run, teacher.choice.step)
                for teacher in run.teachers.values()
                if teacher.choice.run in experiment.trained_runs
            ]
            for name, run in experiment.runs.items()
        }

    # -- samples

    def shown_sampler(self, wildcards: Wildcards) -> str:
        """The sampler of a figure of samples: that of its name, else the experiment's."""
        named = "sampler" in wildcards.keys()  # noqa: SIM118 - Snakemake's object is a list
        return wildcards["sampler"] if named else self.sampler(wildcards)

    def shown_sets(self, wildcards: Wildcards) -> list[Job]:
        """The sets of samples in a figure: of the first seed, by step, then by run.

        Of the experiment's steps those that the sampler is applied to, else its last one.
        """
        experiment = self._experiment(wildcards)
        sampler = self.shown_sampler(wildcards)
        sets = [
            samples
            for samples in self.evaluation.sample_sets(experiment.name, sampler)
            if samples["seed"] == experiment.seeds[0] and samples["run"] in experiment.main_runs
        ]
        steps = {samples["step"] for samples in sets}
        shown = steps & {*experiment.figures.sample_checkpoints} or {max(steps, default=0)}
        chosen = [samples for samples in sets if samples["step"] in shown]
        return sorted(chosen, key=lambda samples: samples["step"])

    def examples(self, wildcards: Wildcards) -> str:
        """The real images beside the samples, where their owner has them."""
        owner = self.study.examples_owner(wildcards["experiment"])
        return fill(paths.EXAMPLES, {"experiment": owner})

    def label_sequences(self, wildcards: Wildcards) -> list[tuple[str, int]]:
        """How the samplers choose the classes of their samples."""
        return list(self._experiment(wildcards).evaluation.label_sequences)

    def class_names(self, wildcards: Wildcards) -> list[str] | None:
        """What the data file calls the classes, if it does; samples of captions show none."""
        experiment = self._experiment(wildcards)
        given = experiment.data.class_names
        return None if given is None or experiment.condition == "caption" else list(given)

    def shown_samples(self, wildcards: Wildcards) -> list[str]:
        """The first images of these sets."""
        sets = map(self.evaluation.owned_samples, self.shown_sets(wildcards))
        return [fill(paths.FIRST_SAMPLES, samples) for samples in sets]

    def shown_rows(self, wildcards: Wildcards) -> list[tuple[int, str]]:
        """Step and run of these sets."""
        return [(samples["step"], samples["run"]) for samples in self.shown_sets(wildcards)]
