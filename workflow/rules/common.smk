"""The experiments of this call, checked before any job, and the questions that rules ask about them."""

import json
import re
import shlex
import sys
from itertools import product
from pathlib import Path

import yaml

from selftrans.config import (
    DATA_FILES,
    EXTRACTORS,
    TrainedAutoencoderConfig,
    TrainedEncoderConfig,
    WorkflowConfig,
    load_experiment,
    validated,
)
from selftrans.data.sources import may_skip
from selftrans.runtime.errors import ConfigError, UserError
from selftrans.runtime.files import read_json, write_text
from selftrans.training.definition import (
    check_definition,
    run_definition,
)

EXPERIMENTS, DATA, RESOURCES, REFERENCES = {}, {}, {}, []

RUN = "results/{experiment}/runs/{run}/seed{seed}"
CHECKPOINT = f"{RUN}/checkpoints/{{step}}"
TEACHER = f"{RUN}/teachers/{{step}}-{{weights}}-depth{{depth}}.safetensors"
SAMPLES = f"{RUN}/samples/{{step}}/{{sampler}}-n{{number}}"
FIGURES = "results/{experiment}/figures"
FEATURES = f"{RUN}/features/features.npz"
PROBES = f"{RUN}/features/probes.csv"
AUTOENCODER_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


def write_resolved(path, settings):
    """Write an experiment or data set with every default filled in: what jobs read, and what stands beside the results.

    Written here and not by a rule, so that its age means nothing: what makes a job run again is its params.
    """
    content = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    path = Path(path)
    if not path.is_file() or path.read_text() != content:
        write_text(path, content)


def imported_runs():
    """Names of the runs that are checkpoints of others, in any experiment."""
    return {
        name
        for experiment in EXPERIMENTS.values()
        for name, run in experiment.runs.items()
        if run.imported
    }


def read_experiments():
    """Load every experiment of config.yaml and refuse what cannot be done.

    Raises:
        UserError: in one line, the file and the key.
    """
    for reference in SETTINGS.references():
        experiment = load_experiment(reference, SETTINGS.data)
        if experiment.name in EXPERIMENTS:
            raise ConfigError(
                f"config.yaml: experiments: {experiment.name!r} is listed twice"
            )
        if DATA.setdefault(experiment.data.name, experiment.data) != experiment.data:
            raise ConfigError(
                f"{reference}: data: {experiment.data.name!r} is defined otherwise by another experiment"
            )
        EXPERIMENTS[experiment.name] = experiment
        REFERENCES.append(reference)
        RESOURCES[experiment.name] = SETTINGS.job_kinds(experiment)
        train = RESOURCES[experiment.name].train
        for name, run in experiment.runs.items():
            if run.imported and len(experiment.seeds) > 1:
                raise ConfigError(
                    f"{reference}: runs.{name}.imported: a checkpoint has one seed, the experiment has {len(experiment.seeds)}"
                )
            if not run.imported:
                run.training.check_processes(train.gpu or train.processes, reference)
        for run, seed in product(experiment.trained_runs, experiment.seeds):
            directory = Path(RUN.format(experiment=experiment.name, run=run, seed=seed))
            check_definition(directory, run_definition(experiment, run, seed))
    known = {path.stem for path in DATA_FILES.glob("*.yaml")} | DATA.keys()
    if unknown := SETTINGS.data.keys() - known:
        raise ConfigError(
            f"config.yaml: data: {min(unknown)!r} is no data file (allowed: {', '.join(sorted(known))})"
        )
    if both := imported_runs() & {
        run for experiment in EXPERIMENTS.values() for run in experiment.trained_runs
    }:
        raise ConfigError(
            f"config.yaml: experiments: run {min(both)!r} is trained in one of them and imported in another"
        )
    for experiment in EXPERIMENTS.values():
        write_resolved(
            f"results/data/{experiment.data.name}/data.yaml", experiment.data
        )
        write_resolved(f"results/{experiment.name}/experiment.yaml", experiment)


try:
    SETTINGS = validated(WorkflowConfig, config, "config.yaml")
    read_experiments()
except UserError as error:
    sys.exit(f"error: {error}")


def one_of(names):
    """A wildcard constraint that lets through just these names, nothing if there are none."""
    return "|".join(map(re.escape, sorted(set(names)))) or "(?!)"


wildcard_constraints:
    experiment=one_of(EXPERIMENTS),
    dataset=one_of(DATA),
    run=one_of(run for experiment in EXPERIMENTS.values() for run in experiment.runs),
    sampler=one_of(
        name
        for experiment in EXPERIMENTS.values()
        for name in experiment.evaluation.samplers
    ),
    extractor="|".join(EXTRACTORS),
    encoder=one_of(name for data in DATA.values() for name in data.encoders),
    grid=one_of(
        grid for experiment in EXPERIMENTS.values() for grid in experiment.grids
    ),
    sweep=one_of(
        sweep
        for experiment in EXPERIMENTS.values()
        for sweep in experiment.evaluation.sweeps
    ),
    weights="ema|raw",
    seed=r"\d+",
    step=r"\d+",
    depth=r"\d+",
    number=r"\d+",


ANALYSED = [name for name, experiment in EXPERIMENTS.items() if experiment.analysis]
KEEPING = [
    name
    for name, experiment in EXPERIMENTS.items()
    if experiment.evaluation.keep_samples
]
ON_ONE_NODE = [name for name in EXPERIMENTS if RESOURCES[name].train.nodes == 1]
ON_SEVERAL_NODES = [name for name in EXPERIMENTS if name not in ON_ONE_NODE]
NOT_KEEPING = [name for name in EXPERIMENTS if name not in KEEPING]
TRAINED = [
    run for experiment in EXPERIMENTS.values() for run in experiment.trained_runs
]
IMPORTED = imported_runs()


def dataset_path(pattern):
    """A file of the data set of a job's experiment."""

    def of_job(wildcards):
        return f"results/data/{EXPERIMENTS[wildcards.experiment].data.name}/{pattern}"

    return of_job


latents_of_experiment = dataset_path("latents/manifest.json")


def settings_of_run(wildcards):
    return EXPERIMENTS[wildcards.experiment].runs[wildcards.run]


# -- data


def autoencoder_files(dataset):
    """What the autoencoder's rule leaves; nothing for one that exists."""
    if not isinstance(DATA[dataset].autoencoder, TrainedAutoencoderConfig):
        return []
    return [f"results/data/{dataset}/autoencoder/{name}" for name in AUTOENCODER_FILES]


def autoencoder_of(dataset):
    """The directory or hub name that the autoencoder is loaded from."""
    if isinstance(DATA[dataset].autoencoder, TrainedAutoencoderConfig):
        return f"results/data/{dataset}/autoencoder"
    return DATA[dataset].autoencoder.path


def data_definition(wildcards, *parts):
    """What a rule's result is a function of: the images, and the named parts of the data file."""
    return DATA[wildcards.dataset].model_dump(
        mode="json", include={"source", "image_size", *parts}
    )


def encoder_weights(wildcards):
    """The file of a published encoder's weights, where one is named."""
    encoder = DATA[wildcards.dataset].encoders[wildcards.encoder]
    return getattr(encoder, "weights", None) or []


def encoder_definition(wildcards):
    """What an encoder is a function of; the images only if it is trained on them."""
    encoder = DATA[wildcards.dataset].encoders[wildcards.encoder]
    images = (
        data_definition(wildcards)
        if isinstance(encoder, TrainedEncoderConfig)
        else None
    )
    return {"images": images, "encoder": encoder.model_dump(mode="json")}


def autoencoder_of_experiment(wildcards):
    return autoencoder_files(EXPERIMENTS[wildcards.experiment].data.name)


def autoencoder_path_of_experiment(wildcards):
    return autoencoder_of(EXPERIMENTS[wildcards.experiment].data.name)


# -- training


def segments(experiment):
    """Wildcards of every checkpoint that an experiment trains."""
    for run, seed in product(experiment.trained_runs, experiment.seeds):
        for step in experiment.runs[run].training.checkpoints:
            yield {
                "experiment": experiment.name,
                "run": run,
                "seed": seed,
                "step": step,
            }


def import_options(wildcards):
    """What a checkpoint of others is, for the command line; its place is no part of it."""
    run, data = (
        settings_of_run(wildcards),
        EXPERIMENTS[wildcards.experiment].data,
    )
    options = {
        "--convention": run.imported.convention,
        "--step": run.imported.step,
        "--scale": run.imported.scale,
        "--shift": run.imported.shift,
        "--interpolant": run.training.interpolant,
        "--name": wildcards.run,
        "--latent-size": data.latent_shape[1],
        "--expected": run.model.model_dump_json(exclude={"preset"}),
    }
    words = [str(word) for option in options.items() for word in option]
    if run.imported.ignore:
        words += ["--ignore", *run.imported.ignore]
    return shlex.join(words)


def teacher_path(wildcards, teacher):
    """The file of a frozen teacher of a run."""
    return TEACHER.format(
        experiment=wildcards.experiment,
        run=teacher.choice.run,
        seed=wildcards.seed,
        step=teacher.choice.step,
        weights=teacher.choice.weights,
        depth=teacher.depth,
    )


def teacher_files(wildcards):
    """The frozen teachers of a run, one for each signal that follows one."""
    return [
        teacher_path(wildcards, teacher)
        for teacher in settings_of_run(wildcards).teachers
    ]


def feature_stores(wildcards):
    """The stores of those encoders' features that a run's signals read."""
    return [
        dataset_path(f"features/{used.name}/manifest.json")(wildcards)
        for used in settings_of_run(wildcards).encoders
        if used.features == "store"
    ]


def encoder_files(wildcards):
    """The encoders that a run's signals run on images."""
    return [
        dataset_path(f"encoders/{used.name}.safetensors")(wildcards)
        for used in settings_of_run(wildcards).encoders
        if used.features == "images"
    ]


def alignment_options(wildcards, input):
    """What a run's signals follow, for the command line."""
    options = {
        "--teacher": input.teachers,
        "--features": input.features,
        "--encoder": input.encoders,
    }
    return " ".join(
        f"{option} {path}" for option, paths in options.items() for path in paths
    )


def checkpoint_record(wildcards, step):
    return Path(CHECKPOINT.format(**{**wildcards, "step": step})) / "checkpoint.json"


def frozen_input(path, wildcards):
    """An input of a segment; of a finished one it is ancient: a newer file never trains anew what was trained.

    Not ancient for the others, since Snakemake 9 passes over jobs behind an ancient input that is being made again.
    """
    return (
        ancient(path)
        if checkpoint_record(wildcards, wildcards.step).is_file()
        else path
    )


def frozen_inputs(files):
    """Such inputs of a segment."""

    def of_job(wildcards):
        return [frozen_input(path, wildcards) for path in files(wildcards)]

    return of_job


def segment_before(wildcards):
    """The weights of the checkpoint that a segment waits for: the one below it, or one below that is still to be trained,
    since two segments of a run never train at once. Fixed once it is trained, so that one inserted later disturbs nothing.
    """
    record = checkpoint_record(wildcards, wildcards.step)
    if record.is_file():
        before = read_json(record)["after"]
    else:
        checkpoints = (
            EXPERIMENTS[wildcards.experiment].runs[wildcards.run].training.checkpoints
        )
        below = [step for step in checkpoints if step < int(wildcards.step)]
        unfinished = [
            step for step in below if not checkpoint_record(wildcards, step).is_file()
        ]
        before = max(unfinished or below, default=0)
    if not before:
        return []
    path = f"{CHECKPOINT}/ema.safetensors".format(**{**wildcards, "step": before})
    return frozen_input(path, wildcards)


def step_before(wildcards, input):
    """The step of those weights, 0 for none: read off the input, which was decided before any job."""
    return Path(input.before).parent.name if input.before else 0


def steps_waiting(experiment, run, step):
    """Steps of the longest chain of trainings that waits for ``step`` of a run: its own rest, or its students'."""
    chains = [experiment.runs[run].training.checkpoints[-1] - step]
    for student, settings in experiment.runs.items():
        for teacher, _ in settings.teachers:
            if teacher.run == run and teacher.step >= step:
                chains.append(
                    teacher.step - step + steps_waiting(experiment, student, 0)
                )
    return max(chains)


def urgency(wildcards):
    """Priority of a segment: the longest chain first, and any training before evaluation."""
    return 1 + steps_waiting(
        EXPERIMENTS[wildcards.experiment], wildcards.run, int(wildcards.step)
    )


# -- evaluation


def sample_sets(experiment, sampler=None, checkpoints=None):
    """Wildcards of every set of samples of an experiment, or of one sampler, or of some checkpoints."""
    for run, seed, name in product(
        experiment.runs, experiment.seeds, experiment.evaluation.samplers
    ):
        for step in experiment.evaluated_steps(run, name):
            if sampler in (None, name) and (checkpoints is None or step in checkpoints):
                number = experiment.evaluation.samplers[name].num_samples
                found = {
                    "experiment": experiment.name,
                    "run": run,
                    "seed": seed,
                    "step": step,
                }
                yield found | {"sampler": name, "number": number}


def sample_targets(experiment, samples):
    """What the target `generate` resource for: the images, or the statistics that they are deleted after."""
    if experiment.evaluation.keep_samples:
        return [f"{SAMPLES}/samples.npz".format(**samples)]
    return [
        f"{SAMPLES}/{{extractor}}.npz".format(**samples, extractor=extractor)
        for extractor in experiment.evaluation.extractors
    ]


def sampler_of(wildcards):
    return EXPERIMENTS[wildcards.experiment].evaluation.samplers[wildcards.sampler]


def sampler_definition(wildcards):
    """What a set of samples is a function of, as JSON."""
    return sampler_of(wildcards).model_dump_json(exclude={"checkpoints", "sweep"})


def weights_to_sample(wildcards):
    return f"{CHECKPOINT}/{sampler_of(wildcards).weights}.safetensors".format(
        **wildcards
    )


def all_metrics(wildcards):
    experiment = EXPERIMENTS[wildcards.experiment]
    return [
        f"{SAMPLES}/{{extractor}}.json".format(**samples, extractor=extractor)
        for samples in sample_sets(experiment)
        for extractor in experiment.evaluation.extractors
    ]


def extractor_record(dataset, extractor):
    """What stands for an extractor among the inputs: the classifier's weights, or that published ones were found."""
    if extractor == "classifier":
        return f"results/data/{dataset}/extractors/classifier.safetensors"
    return f"results/extractors/{extractor}.json"


def extractor_of_data(wildcards):
    return extractor_record(wildcards.dataset, wildcards.extractor)


def extractor_of_experiment(wildcards):
    dataset = EXPERIMENTS[wildcards.experiment].data.name
    return extractor_record(dataset, wildcards.extractor)


def weights_option(wildcards, input):
    """The file of an extractor's weights; published ones may lie in the cache."""
    if wildcards.extractor == "classifier":
        return f"--weights {input.extractor}"
    path = SETTINGS.weights.get(wildcards.extractor)
    return f"--weights {shlex.quote(path)}" if path else ""


def reference_images(wildcards):
    """What a data set's samples are measured against: what it names, or all its own images."""
    own = f"results/data/{wildcards.dataset}/data.yaml"
    return DATA[wildcards.dataset].reference or own


def list_of_skipped(wildcards):
    """Where it stands which images were left out, if some may be and all others are the reference."""
    data = DATA[wildcards.dataset]
    if data.reference or not may_skip(data):
        return []
    return f"results/data/{wildcards.dataset}/latents/manifest.json"


def metrics_of_extractor(wildcards):
    return EXPERIMENTS[wildcards.experiment].evaluation.metrics_of(wildcards.extractor)


# -- figures


def run_labels(wildcards):
    """The runs' names in tables, in the order of the experiment file."""
    return {
        name: run.label or name
        for name, run in EXPERIMENTS[wildcards.experiment].runs.items()
    }


def main_labels(wildcards):
    """The runs' names in figures of the whole experiment."""
    main = EXPERIMENTS[wildcards.experiment].main_runs
    return {
        name: label for name, label in run_labels(wildcards).items() if name in main
    }


def compared_labels(wildcards):
    """The names of those that were trained here: what a checkpoint of others cost is not known."""
    trained = EXPERIMENTS[wildcards.experiment].trained_runs
    return {
        name: label for name, label in main_labels(wildcards).items() if name in trained
    }


def grid_labels(wildcards):
    """The names of a grid's runs."""
    runs = EXPERIMENTS[wildcards.experiment].grids[wildcards.grid].runs
    return {run: run_labels(wildcards)[run] for run in runs}


def imported_runs_of(wildcards):
    """The runs that others trained, which are levels in the figures."""
    runs = EXPERIMENTS[wildcards.experiment].runs
    return [name for name, run in runs.items() if run.imported]


def published_curves(wildcards):
    """What others published of an experiment's runs."""
    published = EXPERIMENTS[wildcards.experiment].figures.published
    return published.model_dump() if published else None


def figure_style(wildcards):
    figures = EXPERIMENTS[wildcards.experiment].figures
    return {"width_inches": figures.width_inches, "dpi": figures.dpi}


def shown_sampler(wildcards):
    return EXPERIMENTS[wildcards.experiment].figures.sampler


def last_segments(wildcards):
    """The last checkpoint of every main run and seed: its history is that of the whole training."""
    experiment = EXPERIMENTS[wildcards.experiment]
    last = {
        run: settings.training.checkpoints[-1]
        for run, settings in experiment.main_runs.items()
    }
    return [
        segment
        for segment in segments(experiment)
        if segment["step"] == last.get(segment["run"])
    ]


def last_histories(wildcards):
    return [
        f"{CHECKPOINT}/history.csv".format(**segment)
        for segment in last_segments(wildcards)
    ]


def last_history_runs(wildcards):
    return [segment["run"] for segment in last_segments(wildcards)]


def shown_sets(wildcards):
    """The sets of samples in the sample figure: of the first seed, by step, then by run."""
    experiment = EXPERIMENTS[wildcards.experiment]
    figures = experiment.figures
    shown = sample_sets(experiment, figures.sampler, figures.sample_checkpoints)
    return sorted(
        (
            one
            for one in shown
            if one["seed"] == experiment.seeds[0] and one["run"] in experiment.main_runs
        ),
        key=lambda one: one["step"],
    )


def shown_samples(wildcards):
    return [
        f"{SAMPLES}/first.npz".format(**samples) for samples in shown_sets(wildcards)
    ]


def shown_rows(wildcards):
    return [(samples["step"], samples["run"]) for samples in shown_sets(wildcards)]


def first_of_seed(experiment):
    """Wildcards of every main run's first seed."""
    return [
        {"experiment": experiment.name, "run": run, "seed": experiment.seeds[0]}
        for run in experiment.main_runs
    ]


def histories_of_run(wildcards):
    """The whole history of every seed of a run."""
    return [
        f"{CHECKPOINT}/history.csv".format(**segment)
        for segment in last_segments(wildcards)
        if segment["run"] == wildcards.run
    ]


def compared_checkpoints(wildcards):
    """Run, seed and step of every checkpoint, for what it cost."""
    return [
        (segment["run"], segment["seed"], segment["step"])
        for segment in segments(EXPERIMENTS[wildcards.experiment])
    ]


def checkpoint_records(wildcards):
    return [
        f"{CHECKPOINT}/checkpoint.json".format(**segment)
        for segment in segments(EXPERIMENTS[wildcards.experiment])
    ]


def teachers_of_runs(wildcards):
    """Run and step of every run's teachers that were trained here: what others' cost is not known."""
    experiment = EXPERIMENTS[wildcards.experiment]
    return {
        name: [
            (teacher.choice.run, teacher.choice.step)
            for teacher in run.teachers
            if teacher.choice.run in experiment.trained_runs
        ]
        for name, run in experiment.runs.items()
    }


def sweep_sets(wildcards):
    """Names of the sets of samples of a sweep, by ascending guidance scale."""
    evaluation = EXPERIMENTS[wildcards.experiment].evaluation
    return sorted(
        evaluation.sweeps[wildcards.sweep],
        key=lambda name: evaluation.samplers[name].guidance.scale,
    )


# -- analysis


def analysis_of(wildcards):
    return EXPERIMENTS[wildcards.experiment].analysis


def analysis_definition(wildcards):
    """What the features of a run are a function of, beside its weights."""
    return analysis_of(wildcards).model_dump(
        mode="json", exclude={"encoder", "neighbours"}
    )


def analysed_checkpoints(wildcards):
    """The averaged weights of all checkpoints of a run."""
    steps = settings_of_run(wildcards).training.checkpoints
    return [
        f"{CHECKPOINT}/ema.safetensors".format(**{**wildcards, "step": step})
        for step in steps
    ]


def features_of_first_seed(wildcards):
    return [
        FEATURES.format(**job)
        for job in first_of_seed(EXPERIMENTS[wildcards.experiment])
    ]


def features_of_aligned_runs(wildcards):
    """Features of the runs that follow something, first seed."""
    experiment = EXPERIMENTS[wildcards.experiment]
    return [
        FEATURES.format(**job)
        for job in first_of_seed(experiment)
        if job["run"] in experiment.aligned_runs
    ]


def all_probes(wildcards):
    experiment = EXPERIMENTS[wildcards.experiment]
    return [
        PROBES.format(experiment=experiment.name, run=run, seed=seed)
        for run, seed in product(experiment.main_runs, experiment.seeds)
    ]


def probed_runs(wildcards):
    experiment = EXPERIMENTS[wildcards.experiment]
    return list(product(experiment.main_runs, experiment.seeds))


def encoder_probe(wildcards):
    encoder = analysis_of(wildcards).encoder
    return (
        [f"results/{wildcards.experiment}/encoders/{encoder}/probes.csv"]
        if encoder
        else []
    )


def encoder_title(wildcards):
    """What the encoder is called in figures: a stand-in says so."""
    if not (name := analysis_of(wildcards).encoder):
        return None
    encoder = EXPERIMENTS[wildcards.experiment].data.encoders[name]
    if not isinstance(encoder, TrainedEncoderConfig):
        return encoder.model
    return f"{name} encoder" if "stand-in" in name else f"{name} (stand-in encoder)"
