# The state in progress lies in the run's own state/ directory, which no rule declares: Snakemake would delete it.
# exec, as in every rule: a shell in between dies of the signal that all processes of a job get, and ends the job while it saves.
rule train_segment:
    input:
        before=segment_before,
        experiment=ancient("results/{experiment}/experiment.yaml"),
        latents=frozen_inputs(lambda wildcards: [latents_of_experiment(wildcards)]),
        teachers=frozen_inputs(teacher_files),
        features=frozen_inputs(feature_stores),
        encoders=frozen_inputs(encoder_files),
    output:
        multiext(
            f"{CHECKPOINT}/",
            "ema.safetensors",
            "raw.safetensors",
            "history.csv",
            "checkpoint.json",
        ),
    log:
        f"{RUN}/logs/train-{{step}}.log",
    benchmark:
        f"{RUN}/benchmarks/train-{{step}}.tsv"
    wildcard_constraints:
        run=one_of(TRAINED),
        experiment=one_of(ON_ONE_NODE),
    priority: urgency
    retries: retries_of_trainings()
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("train", "threads")
    resources:
        mem_mb=memory("train", memory_of_segment),
        runtime=time_limit("train", segment_minutes),
        gpu=resource("train", "gpu"),
        processes=resource("train", "processes"),
        attempt=attempt_at_job,
        warning=warning_seconds,
        slurm_extra=options_for_slurm,
        nodes=1,
        tasks_per_gpu=0,
        launcher="",
    params:
        directory=RUN,
        alignment=alignment_options,
        after=step_before,
    shell:
        "exec {resources.launcher}python -m selftrans.training {input.experiment} --run {wildcards.run}"
        " --seed {wildcards.seed} --until {wildcards.step} --after {params.after} --latents {input.latents}"
        " {params.alignment} --directory {params.directory} --gpus {resources.gpu} --processes {resources.processes}"
        " --nodes {resources.nodes} --attempt {resources.attempt} > {log} 2>&1"


# Several nodes: one task of srun on each, all GPUs of the node its own.
use rule train_segment as train_segment_on_nodes with:
    wildcard_constraints:
        run=one_of(TRAINED),
        experiment=one_of(ON_SEVERAL_NODES),
    resources:
        mem_mb=memory("train", memory_of_segment),
        runtime=time_limit("train", segment_minutes),
        gpu=resource("train", "gpu"),
        processes=resource("train", "processes"),
        attempt=attempt_at_job,
        warning=warning_seconds,
        slurm_extra=options_for_slurm,
        nodes=resource("train", "nodes"),
        tasks=resource("train", "nodes"),
        tasks_per_gpu=0,
        mpi="srun",
        launcher=launcher,


# A checkpoint that others trained takes the place of a segment.
rule import_checkpoint:
    input:
        lambda wildcards: settings_of_run(wildcards).imported.file,
    output:
        f"{CHECKPOINT}/{{weights}}.safetensors",
    log:
        f"{RUN}/logs/import-{{step}}-{{weights}}.log",
    benchmark:
        f"{RUN}/benchmarks/import-{{step}}-{{weights}}.tsv"
    wildcard_constraints:
        run=one_of(IMPORTED),
    priority: 10**9
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=memory("generate", memory_of_import),
        runtime=time_limit("generate"),
        gpu=0,
    params:
        options=import_options,
    shell:
        "exec python -m selftrans.convert import {input:q} {params.options} --weights {wildcards.weights}"
        " --output {output} > {log} 2>&1"


rule freeze_teacher:
    input:
        f"{CHECKPOINT}/{{weights}}.safetensors",
    output:
        TEACHER,
    log:
        f"{RUN}/logs/freeze-{{step}}-{{weights}}-depth{{depth}}.log",
    benchmark:
        f"{RUN}/benchmarks/freeze-{{step}}-{{weights}}-depth{{depth}}.tsv"
    priority: 10**9
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    shell:
        "exec python -m selftrans.training.freeze {input} --depth {wildcards.depth} --output {output} > {log} 2>&1"


rule train:
    input:
        [
            f"{CHECKPOINT}/ema.safetensors".format(**segment)
            for experiment in EXPERIMENTS.values()
            for segment in segments(experiment)
        ],
    localrule: True
