"""What the parts of an experiment ask of each other. Every problem is listed."""

from collections.abc import Iterator, Sequence

from selftrans.config.alignment import FrozenTeacher
from selftrans.config.errors import Problem
from selftrans.config.evaluation import METRIC_SCORERS, Metric
from selftrans.config.experiment import ExperimentConfig, RunConfig
from selftrans.config.identity import tuned_definition
from selftrans.config.sources import CocoSource, ScenesSource, UvitSource
from selftrans.config.tuning import Tuned

RESERVED = {"data", "extractors", "submitted", "slurm", "cluster"}
"""Folders beside those of experiments."""


def experiment_problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    """Everything that is wrong between the parts of an experiment."""
    if experiment.name in RESERVED:
        message = f"{experiment.name!r} is where other things lie (allowed: any other name)"
        yield Problem(("name",), message)
    if len(set(experiment.seeds)) != len(experiment.seeds):
        yield Problem(("seeds",), f"{list(experiment.seeds)} has duplicates")
    yield from _label_problems(experiment)
    for name, run in experiment.runs.items():
        yield from _run_problems(experiment, name, run)
    yield from _circles(experiment)
    yield from _held_out_problems(experiment)
    yield from _prompt_problems(experiment)
    yield from _evaluation_problems(experiment)
    yield from _figure_problems(experiment)
    yield from _significance_problems(experiment)
    yield from _tuning_problems(experiment)
    if (analysis := experiment.analysis) is not None:
        if analysis.encoder is not None:
            yield from _encoder_problems(experiment, ("analysis", "encoder"), analysis.encoder)
        shallowest = min(run.model.depth for run in experiment.runs.values())
        for depth in analysis.shown_blocks or ():
            yield from _depth_problems(("analysis", "shown_blocks"), depth, shallowest)


def _label_problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    names: dict[str, str] = {}
    for name, run in experiment.runs.items():
        if (other := names.setdefault(label := run.label or name, name)) != name:
            yield Problem(("runs", name, "label"), f"{label!r} is the name of run {other!r}, too")


def _run_problems(experiment: ExperimentConfig, name: str, run: RunConfig) -> Iterator[Problem]:
    side, patch = experiment.data.latent_shape[1], run.model.patch_size
    if side % patch:
        message = f"{patch} does not divide the {side}x{side} latents"
        yield Problem(("runs", name, "model", "patch_size"), message)
    yield from _condition_problems(experiment, name, run)
    if run.imported and run.alignments:
        message = "an imported checkpoint is not trained (allowed: none)"
        yield Problem(("runs", name, "alignment"), message)
        return
    for number, term in enumerate(run.alignments.values()):
        keys: tuple[str | int, ...] = ("runs", name, "alignment")
        keys += (number,) if isinstance(run.alignment, tuple) else ()
        for key, depth in term.student_blocks.items():
            yield from _depth_problems((*keys, key), depth, run.model.depth)
        if problem := run.group_problem(term):
            yield Problem((*keys, "group_size"), problem)
        if term.frozen_teacher:
            yield from _teacher_problems(experiment, keys, run, term.frozen_teacher)
        if term.encoder_use:
            yield from _encoder_problems(experiment, (*keys, "encoder"), term.encoder_use.name)
    if sum(term.intermediate_depth is not None for term in run.alignments.values()) > 1:
        message = "two terms train a second output layer (allowed: one)"
        yield Problem(("runs", name, "alignment"), message)
    ways: dict[str, str] = {}
    for use in run.encoders:
        if ways.setdefault(use.name, use.features) != use.features:
            message = f"features of {use.name!r} are 'store' and 'images' at once"
            yield Problem(("runs", name, "alignment"), message)


def _condition_problems(
    experiment: ExperimentConfig, name: str, run: RunConfig
) -> Iterator[Problem]:
    """What a backbone and its methods ask of the condition."""
    if run.model.condition not in (known := experiment.data.conditions):
        message = (
            f"{run.model.kind!r} is conditioned on a {run.model.condition},"
            f" data {experiment.data.name!r} has a {' and a '.join(known)} for each image"
        )
        yield Problem(("runs", name, "model", "kind"), message)
    elif run.model.condition != experiment.condition:
        first = next(iter(experiment.runs))
        message = (
            f"{name!r} is conditioned on a {run.model.condition}, {first!r} on a"
            f" {experiment.condition} (allowed: one condition for all runs)"
        )
        yield Problem(("runs", name, "model", "kind"), message)
    if run.imported and run.imported.empty_context and run.model.condition != "caption":
        message = f"{run.model.kind!r} takes classes, no captions (allowed: none)"
        yield Problem(("runs", name, "imported", "empty_context"), message)
    for term in run.alignments.values():
        if term.needs_sit and run.model.condition != "class":
            message = f"{term.method!r} needs a SiT, {name!r} is of kind {run.model.kind!r}"
            yield Problem(("runs", name, "alignment"), message)


def _teacher_problems(
    experiment: ExperimentConfig, keys: Sequence[str | int], run: RunConfig, teacher: FrozenTeacher
) -> Iterator[Problem]:
    choice = teacher.choice
    if choice.run not in experiment.runs:
        allowed = ", ".join(experiment.runs)
        yield Problem(
            (*keys, "teacher", "run"), f"{choice.run!r} is not a run (allowed: {allowed})"
        )
        return
    source = experiment.runs[choice.run]
    if choice.step not in source.training.checkpoints:
        allowed = ", ".join(map(str, source.training.checkpoints))
        message = f"{choice.step} is not a checkpoint of {choice.run!r} (allowed: {allowed})"
        yield Problem((*keys, "teacher", "step"), message)
    for key, student, teachers in (
        ("model.patch_size", run.model.patch_size, source.model.patch_size),
        ("a model conditioned on", run.model.condition, source.model.condition),
        ("training.interpolant", run.training.interpolant, source.training.interpolant),
    ):
        if student != teachers:
            message = f"{choice.run!r} has {key} {teachers}, its student has {student}"
            yield Problem((*keys, "teacher", "run"), message)
    yield from _depth_problems((*keys, "teacher_depth"), teacher.depth, source.model.depth)


def _held_out_problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    """Splits that leave too few images, where their number is known before they are there."""
    for name, run in experiment.runs.items():
        if problem := run.training.split_problem(experiment.data.images):
            yield Problem(("runs", name, "training", "held_out"), problem)


def _prompt_problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    """Captions that samples cannot be made of, or that real images cannot stand beside."""
    data, prompts = experiment.data, experiment.prompts
    if prompts is None:
        return
    name = f"data {prompts.name!r}"
    if experiment.condition == "class":
        message = f"{prompts.name!r} is given, but the runs are conditioned on classes"
        yield Problem(("prompts",), f"{message} (allowed: none)")
        return
    if prompts.text_encoder is None:
        yield Problem(("prompts",), f"{name} has no captions that are encoded (`text_encoder`)")
    elif data.text_encoder is not None:
        for key in ("kind", "length", "size"):
            found, expected = (getattr(one.text_encoder, key) for one in (prompts, data))
            if found != expected:
                message = f"{name} has text_encoder.{key} {found!r}"
                yield Problem(("prompts",), f"{message}, data {data.name!r} has {expected!r}")
    if prompts.image_size != data.image_size:
        message = f"{name} has image_size {prompts.image_size}"
        yield Problem(("prompts",), f"{message}, data {data.name!r} has {data.image_size}")


def _reader_problems(experiment: ExperimentConfig, metric: Metric) -> Iterator[Problem]:
    """Why a metric that reads scenes off samples cannot be computed, if it cannot."""
    keys, captions = ("evaluation", "metrics"), experiment.datasets[-1]
    if METRIC_SCORERS.get(metric) != "reader":
        return
    if experiment.data.reader is None:
        message = f"{metric!r} needs `reader` in the file of data {experiment.data.name!r}"
        yield Problem(keys, message)
    elif not isinstance(captions.source, ScenesSource):
        message = f"{metric!r} needs captions of drawn scenes, found those of {captions.name!r}"
        yield Problem(keys, message)
    elif metric == "held-out-accuracy" and captions.source.combinations == "training":
        message = f"{metric!r} needs captions of held-out combinations, {captions.name!r} has none"
        yield Problem(keys, message)


def _circles(experiment: ExperimentConfig) -> Iterator[Problem]:
    """Runs that are taught by themselves, or by a student of their own: each circle once."""
    reported: set[frozenset[str]] = set()
    for name in experiment.runs:
        if (circle := _circle(experiment, (name,))) and frozenset(circle) not in reported:
            reported.add(frozenset(circle))
            keys = ("runs", name, "alignment", "teacher", "run")
            yield Problem(keys, f"{' -> '.join(circle)} is a circle")


def _circle(experiment: ExperimentConfig, chain: tuple[str, ...]) -> tuple[str, ...]:
    for teacher in experiment.runs[chain[-1]].teachers.values():
        if (run := teacher.choice.run) == chain[0]:
            return (*chain, run)
        known = run in experiment.runs and run not in chain
        if known and (circle := _circle(experiment, (*chain, run))):
            return circle
    return ()


def _evaluation_problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    for metric in experiment.evaluation.metrics:
        if metric in METRIC_SCORERS and experiment.condition != "caption":
            message = f"{metric!r} compares pictures with captions, these have classes"
            yield Problem(("evaluation", "metrics"), message)
        else:
            yield from _reader_problems(experiment, metric)
    classless = isinstance(experiment.data.source, CocoSource | UvitSource)
    if classless and "classifier" in experiment.evaluation.extractors:
        message = f"'classifier' is trained on classes, data {experiment.data.name!r} has none"
        yield Problem(("evaluation", "extractor"), f"{message} (allowed: inception)")
    if not {"fid", "is"} & {*experiment.evaluation.metrics}:
        message = "the convergence figure needs fid or is among them"
        yield Problem(("evaluation", "metrics"), message)
    steps = {step for run in experiment.runs.values() for step in run.training.checkpoints}
    for name, sampler in experiment.evaluation.samplers.items():
        channels, there = sampler.guidance.channels, experiment.data.latent_shape[0]
        if channels is not None and channels > there:
            message = f"{channels} is beyond the latents' {there} channels (allowed: 1 to {there})"
            yield Problem(("evaluation", "samplers", name, "guidance", "channels"), message)
        guided = any(run.intermediate_depth is not None for run in experiment.runs.values())
        if sampler.internal_guidance.scale != 1 and not guided:
            message = "no run trains a second output layer (allowed: 1, or a run that does)"
            yield Problem(("evaluation", "samplers", name, "internal_guidance", "scale"), message)
        if sampler.labels != "balanced" and experiment.condition == "caption":
            message = f"{sampler.labels!r} chooses classes, sample i shows caption i of the prompts"
            yield Problem(("evaluation", "samplers", name, "labels"), message)
        if isinstance(sampler.checkpoints, tuple):
            keys = ("evaluation", "samplers", name, "checkpoints")
            yield from _step_problems(
                keys, sampler.checkpoints, steps, "not a checkpoint of any run"
            )


def _figure_problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    figures, runs = experiment.figures, ", ".join(experiment.runs)
    for run in figures.published.curves if figures.published else ():
        if run not in experiment.runs:
            message = f"{run!r} is not a run (allowed: {runs})"
            yield Problem(("figures", "published", "curves"), message)
    if experiment.baseline not in experiment.runs:
        message = f"{experiment.baseline!r} is not a run (allowed: {runs})"
        yield Problem(("figures", "baseline"), message)
        return
    if experiment.trained_runs and experiment.baseline not in experiment.trained_runs:
        message = f"{experiment.baseline!r} was not trained here (allowed: a run that was)"
        yield Problem(("figures", "baseline"), message)
    name, samplers = figures.sampler, experiment.evaluation.samplers
    for other in figures.also_samples_of:
        if other not in samplers or other == name:
            allowed = ", ".join(one for one in samplers if one != name) or "none"
            message = f"{other!r} is not another sampler (allowed: {allowed})"
            yield Problem(("figures", "also_samples_of"), message)
    if name not in samplers:
        message = f"{name!r} is not a sampler (allowed: {', '.join(samplers)})"
        yield Problem(("figures", "sampler"), message)
        return
    if not experiment.evaluated_steps(experiment.baseline, name):
        message = f"{name!r} samples no checkpoint of the baseline {experiment.baseline!r}"
        yield Problem(("figures", "sampler"), message)
        return
    sampled = {step for run in experiment.runs for step in experiment.evaluated_steps(run, name)}
    keys = ("figures", "sample_checkpoints")
    yield from _step_problems(keys, figures.sample_checkpoints, sampled, f"not sampled by {name!r}")
    if figures.sample_columns > (count := samplers[name].num_samples):
        yield Problem(
            ("figures", "sample_columns"),
            f"{figures.sample_columns} is beyond the {count} samples of {name!r}"
            f" (allowed: 1 to {count})",
        )


def _significance_problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    """Comparisons of runs that there are not, or that stand there twice."""
    allowed = ", ".join(experiment.trained_runs) or "none"
    tested, chosen = experiment.significance, experiment.significance.against_baseline or ()
    named: list[tuple[tuple[str | int, ...], str]]
    named = [(("against_baseline",), run) for run in chosen]
    for number, pair in enumerate(tested.pairs):
        named += [
            (("pairs", number, "run"), pair.run),
            (("pairs", number, "against"), pair.against),
        ]
    for keys, run in named:
        if run not in experiment.trained_runs:
            message = f"{run!r} is not a run that is trained here (allowed: {allowed})"
            yield Problem(("significance", *keys), message)
    found: set[frozenset[str]] = set()
    for run, against in experiment.planned_comparisons:
        if run == against or frozenset((run, against)) in found:
            problem = "itself" if run == against else f"{against!r} twice"
            yield Problem(("significance",), f"{run!r} is compared with {problem}")
        found.add(frozenset((run, against)))


def _tuning_problems(experiment: ExperimentConfig) -> Iterator[Problem]:
    """Arms that are not tuned alike."""
    if experiment.tuning is None:
        return
    if experiment.tuned is not None:
        yield Problem(("tuned",), "is set beside tuning (allowed: one of the two)")
    first: dict[str, int] = {}
    for arm in experiment.arms:
        run = experiment.runs[arm]
        for key, value in (
            ("checkpoints", run.training.checkpoints[-1]), ("batch_size", run.training.batch_size)
        ):  # fmt: skip
            if value != (of_first := first.setdefault(key, value)):
                message = f"{arm!r} has {value}, the first arm {of_first} (allowed: one budget)"
                yield Problem(("runs", arm, "training", key), message)
        # Without a grid its trials could not be made, which is reported.
        trials = experiment.trial_values(arm) if arm in experiment.grids else []
        for number, trial in enumerate(trials):
            if (same := trials.index(trial)) != number:
                message = f"trials {same} and {number} of run {arm!r} are the same"
                yield Problem(("tuning", "ranges"), f"{message} (allowed: other values or seed)")
                break


def tuned_problems(experiment: ExperimentConfig, tuned: Tuned) -> Iterator[Problem]:
    """Arms that are not what was tuned."""
    for name, arm in tuned.runs.items():
        if name not in experiment.runs:
            continue
        if tuned_definition(experiment, name, arm.values) != arm.definition:
            message = f"is not as {tuned.experiment!r} tuned it (allowed: other steps and seeds)"
            yield Problem(("runs", name), message)


def _encoder_problems(
    experiment: ExperimentConfig, keys: tuple[str | int, ...], name: str
) -> Iterator[Problem]:
    if name not in (encoders := experiment.data.encoders):
        allowed = ", ".join(encoders) or "none"
        message = f"{name!r} is not an encoder of data {experiment.data.name!r}"
        yield Problem(keys, f"{message} (allowed: {allowed})")


def _step_problems(
    keys: tuple[str, ...], wanted: tuple[int, ...], existing: set[int], problem: str
) -> Iterator[Problem]:
    for step in wanted:
        if step not in existing:
            allowed = ", ".join(map(str, sorted(existing))) or "none"
            yield Problem(keys, f"{step} is {problem} (allowed: {allowed})")


def _depth_problems(keys: tuple[str | int, ...], depth: int, blocks: int) -> Iterator[Problem]:
    if depth > blocks:
        message = f"{depth} is beyond the model's {blocks} blocks (allowed: 1 to {blocks})"
        yield Problem(keys, message)
