"""What jobs ask for: as it stands in the configuration, else by what the experiment says and the stated rates."""

import math

from selftrans.flops import (
    count_classes,
    count_reference,
    encoding_work,
    extraction_memory,
    features_work,
    gpu_hours,
    parameters,
    probing_memory,
    sampling_memory,
    sampling_work,
    segment_work,
    small_memory,
    statistics_memory,
    statistics_work,
    training_memory,
)
from selftrans.training.definition import SAVING_FILE

START_MINUTES = 10  # reading the state, compiling, saving
TIME_HEADROOM = 1.5  # by which a time limit exceeds what the stated rates say
SLOW_DISK = 100e6  # bytes per second
IMAGES_DECODED = 100  # per second and thread, on a slow core
LONG_MINUTES = 240  # of what is not estimated and does not go on where it was


def resources_of(kind, wildcards):
    """What a kind of job resource for: by its experiment, or by the first experiment that uses its data set."""
    name = wildcards.get("experiment") or next(
        name
        for name, experiment in EXPERIMENTS.items()
        if experiment.data.name == wildcards["dataset"]
    )
    return getattr(RESOURCES[name], kind)


def resource(kind, what):
    """One of those numbers, as it stands in the configuration."""

    def of_job(wildcards):
        return getattr(resources_of(kind, wildcards), what)

    return of_job


def memory(kind, estimate=None):
    """Memory of a kind of job in MB: as it stands in the configuration, else by an estimate, else that of small networks."""

    def of_job(wildcards):
        requested = resources_of(kind, wildcards)
        if requested.mem_mb:
            return requested.mem_mb
        return (
            estimate(wildcards, requested)
            if estimate
            else small_memory(requested.gpu > 0)
        )

    return of_job


def light_memory(wildcards, attempt):
    """Memory of a light job: more at every attempt. The others ask for the same each time, since they are also tried again
    after their time was up.
    """
    return memory("light")(wildcards) * attempt


def longest_allowed():
    """The longest time limit in minutes that the profile allows any job; None if it does not say."""
    defaults = workflow.resource_settings.default_resources or {}
    if "max_runtime" not in defaults:
        return None
    raw = defaults["max_runtime"].raw
    try:
        return int(raw)
    except ValueError:
        sys.exit(
            f"error: default-resources: max_runtime: {raw!r} is no number (allowed: minutes)"
        )


CEILING = longest_allowed()


def time_limit(kind, minutes=None, otherwise=60, share=1):
    """Time limit of a kind of job in minutes: as it stands in the configuration, else by what it takes on GPUs, and half as
    much again, where that is known; never above the profile's ceiling, or its share of a group of jobs.
    """

    def of_job(wildcards):
        requested = resources_of(kind, wildcards)
        known = minutes and requested.gpu and not requested.runtime
        takes = minutes(wildcards, requested) if known else None
        needed = requested.runtime or otherwise
        if takes is not None:
            needed = START_MINUTES + math.ceil(TIME_HEADROOM * takes)
        return min(needed, CEILING // share) if CEILING else needed

    return of_job


def attempts_by_time_limit(kind, minutes, jobs):
    """How often the longest of some jobs, which go on where they were, meets its time limit by the stated rates. Never within
    a job of a cluster, whose time is nearly up: the main process submits another.
    """
    if workflow.remote_exec:
        return 0
    times = [0]
    for job in jobs:
        requested = resources_of(kind, job)
        if requested.gpu and (requested.runtime or CEILING):
            limit = time_limit(kind, minutes)(job)
            at_work = max(limit - START_MINUTES, limit / 2)
            times.append(int(TIME_HEADROOM * (minutes(job, requested) or 0) / at_work))
    return max(times)


def retries_by_time_limit(kind, minutes, jobs):
    """Attempts after the first, where the clock needs any: those, and what the configuration grants. Else what the command
    line says.
    """
    needed = attempts_by_time_limit(kind, minutes, jobs)
    return SETTINGS.retries + needed if needed else None


def minutes_on_gpus(work, requested):
    """What work takes on the GPUs that a job resource for, by the stated rates."""
    return 60 * gpu_hours(work, SETTINGS.rates.model_dump()) / requested.gpu


# -- latents and features


def extraction_minutes(work):
    """What an extraction takes: its encoder on the GPUs, or its threads' decoding, whichever is slower; None if nobody knows
    how many images there are.
    """

    def of_job(wildcards, requested):
        data = DATA[wildcards["dataset"]]
        if data.images is None:
            return None
        decoding = data.images / IMAGES_DECODED / requested.threads / 60
        return max(decoding, minutes_on_gpus(work(wildcards, data), requested))

    return of_job


latents_minutes = extraction_minutes(lambda wildcards, data: encoding_work(data))
features_minutes = extraction_minutes(
    lambda wildcards, data: features_work(data, wildcards["encoder"])
)


def retries_of_latents():
    return retries_by_time_limit(
        "extract", latents_minutes, [{"dataset": name} for name in DATA]
    )


def memory_of_extraction(wildcards, requested):
    return extraction_memory(
        DATA[wildcards.dataset], requested.gpu or requested.processes, requested.gpu > 0
    )


# -- training


def segment_minutes(wildcards, requested):
    """What a segment takes, from the checkpoint below it, and its last save."""
    experiment = EXPERIMENTS[wildcards["experiment"]]
    run, step = experiment.runs[wildcards["run"]], int(wildcards["step"])
    before = max(
        (below for below in run.training.checkpoints if below < step), default=0
    )
    work = segment_work(experiment, run, before, step)
    return minutes_on_gpus(work, requested) + saving_seconds(wildcards) / 60


def memory_of_segment(wildcards, requested):
    experiment, run = EXPERIMENTS[wildcards.experiment], settings_of_run(wildcards)
    workers = requested.gpu or requested.processes
    return training_memory(experiment, run, workers, requested.nodes, requested.gpu > 0)


def retries_of_trainings():
    """Attempts after the first: those that the clock needs, and those that the configuration grants."""
    if workflow.remote_exec:
        return 0
    found = [job for one in EXPERIMENTS.values() for job in segments(one)]
    return SETTINGS.retries + attempts_by_time_limit("train", segment_minutes, found)


def saving_seconds(wildcards):
    """How long before the end a training has to be warned: three times what its last save took, and a minute; before the
    first one, by the size of its state and a slow disk.
    """
    state = Path(RUN.format(**wildcards)) / "state" / SAVING_FILE
    if state.is_file():
        seconds = read_json(state)["seconds"]
    else:
        experiment = EXPERIMENTS[wildcards["experiment"]]
        model = experiment.runs[wildcards["run"]].model
        numbers = parameters(
            model, experiment.data.latent_shape, count_classes(experiment.data)
        )
        seconds = 4 * 4 * numbers / SLOW_DISK
    return 60 + math.ceil(3 * seconds)


def warning_seconds(wildcards):
    """How long before the end a training is warned: as long as its save takes, at most a third of the limit."""
    limit = time_limit("train", segment_minutes)(wildcards)
    return min(saving_seconds(wildcards), 20 * limit)


def options_for_slurm(wildcards):
    """The warning; and as many GPUs on each of several nodes."""
    requested = RESOURCES[wildcards.experiment].train
    options = f"--signal=USR1@{warning_seconds(wildcards)}"
    if requested.gpu and requested.nodes > 1:
        options += f" --gpus-per-node={requested.gpu // requested.nodes}"
    return options


def launcher(wildcards):
    """What starts a training on several nodes: one task on each, which finds the others by itself; all end if one fails."""
    requested = RESOURCES[wildcards.experiment].train
    tasks = f"--nodes={requested.nodes} --ntasks={requested.nodes} --ntasks-per-node=1 --cpus-per-task={requested.threads}"
    return f"srun {tasks} --cpu-bind=q --kill-on-bad-exit=1 "


def attempt_at_job(wildcards, attempt):
    """Which attempt this is: after a failure that no repetition mends, the later ones stop at once."""
    return attempt


# -- evaluation


def sampling_minutes(wildcards, requested):
    """What a set of samples takes."""
    experiment = EXPERIMENTS[wildcards["experiment"]]
    run = experiment.runs[wildcards["run"]]
    sampler = experiment.evaluation.samplers[wildcards["sampler"]]
    return minutes_on_gpus(sampling_work(experiment, run, sampler), requested)


def retries_of_sampling():
    found = [job for one in EXPERIMENTS.values() for job in sample_sets(one)]
    return retries_by_time_limit("generate", sampling_minutes, found)


def memory_of_sampling(wildcards, requested):
    experiment, run = EXPERIMENTS[wildcards.experiment], settings_of_run(wildcards)
    workers = requested.gpu or requested.processes
    return sampling_memory(
        experiment, run, workers, requested.gpu > 0, requested.batch_size
    )


def memory_of_import(wildcards, requested):
    """One process that computes nothing: its weights, in their file and in ours."""
    experiment, run = EXPERIMENTS[wildcards.experiment], settings_of_run(wildcards)
    return sampling_memory(experiment, run, 1, False, 1)


def memory_of_block_features(wildcards, requested):
    """One process, which also holds the features that it makes."""
    experiment, run = EXPERIMENTS[wildcards.experiment], settings_of_run(wildcards)
    passing = sampling_memory(
        experiment, run, 1, requested.gpu > 0, requested.batch_size
    )
    return passing + memory_of_probes(wildcards, requested)


def memory_of_probes(wildcards, requested):
    return probing_memory(settings_of_run(wildcards).model, analysis_of(wildcards))


def statistics_minutes(wildcards, requested):
    """What the features of a set of samples take."""
    work = statistics_work(wildcards["extractor"], int(wildcards["number"]))
    return minutes_on_gpus(work, requested)


def reference_minutes(wildcards, requested):
    """What the features of a reference take, with decoding in one thread of each process; None if its size is not known."""
    data = DATA[wildcards["dataset"]]
    if data.images is None and not data.reference:
        return None
    images = count_reference(data)
    decoding = images / IMAGES_DECODED / requested.gpu / 60
    work = statistics_work(wildcards["extractor"], images)
    return decoding + minutes_on_gpus(work, requested)


def memory_of_statistics(wildcards, requested):
    workers = requested.gpu or requested.processes
    return statistics_memory(
        wildcards.extractor, workers, requested.gpu > 0, requested.batch_size
    )


def memory_of_metrics(wildcards, requested):
    """One process."""
    return statistics_memory(wildcards.extractor, 1, requested.gpu > 0, 1)


def is_heavy(wildcards):
    """Precision and recall are as heavy as features; everything else is light."""
    return bool({"precision", "recall"} & {*metrics_of_extractor(wildcards)})


def asks_for_metrics(light, heavy):
    def of_job(wildcards):
        return (heavy if is_heavy(wildcards) else light)(wildcards)

    return of_job


def metrics_memory(wildcards, attempt):
    if is_heavy(wildcards):
        return memory("evaluate", memory_of_metrics)(wildcards)
    return light_memory(wildcards, attempt)
