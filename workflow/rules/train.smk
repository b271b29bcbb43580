# The state in progress lies in the run's state/ directory, which no rule declares: Snakemake
# would delete it. exec, as in every rule: the signal that all processes of a job get would kill a
# shell in between, and end the job while it saves.
rule train_segment:
    input:
        before=training.segment_before,
        experiment=ancient(study.experiment_file),
        latents=training.frozen_latents,
        captions=training.frozen_captions,
        teachers=training.frozen_teachers,
        features=training.frozen_features,
        encoders=training.frozen_encoders,
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
        run=one_of(study.trained_runs),
        experiment=one_of(study.on_one_node),
    priority: training.urgency
    retries: request("train_segment").retries(training.jobs())
    conda:
        "../../envs/selftrans.yaml"
    threads: request("train_segment").threads
    resources:
        mem_mb=request("train_segment").mem_mb,
        runtime=request("train_segment").runtime,
        gpu=request("train_segment").gpu,
        device=request("train_segment").device,
        processes=request("train_segment").processes,
        attempt=attempt_number,
        warning=slurm.warning,
        slurm_extra=slurm.options,
        nodes=1,
        tasks_per_gpu=0,
        launcher="",
        inserted=training.inserted,
    params:
        directory=RUN,
        inputs=training.input_options,
        after=training.step_before,
    shell:
        "exec {resources.launcher}python -m selftrans train {input.experiment}"
        " --run {wildcards.run} --seed {wildcards.seed} --until {wildcards.step}"
        " {resources.inserted}"
        " --after {params.after} --latents {input.latents} {params.inputs}"
        " --directory {params.directory} --device {resources.device}"
        " --processes {resources.processes}"
        " --nodes {resources.nodes} --attempt {resources.attempt} > {log} 2>&1"


# Several nodes: one task of srun on each, which uses all GPUs of its node.
use rule train_segment as train_segment_on_nodes with:
    wildcard_constraints:
        run=one_of(study.trained_runs),
        experiment=one_of(study.experiments_except(study.on_one_node)),
    resources:
        mem_mb=request("train_segment").mem_mb,
        runtime=request("train_segment").runtime,
        gpu=request("train_segment").gpu,
        device=request("train_segment").device,
        processes=request("train_segment").processes,
        attempt=attempt_number,
        warning=slurm.warning,
        slurm_extra=slurm.options,
        nodes=request("train_segment").nodes,
        tasks=request("train_segment").nodes,
        tasks_per_gpu=0,
        mpi="srun",
        launcher=slurm.launcher,
        inserted=training.inserted,


# A published checkpoint takes the place of a segment.
rule import_checkpoint:
    input:
        training.imported_file,
    output:
        paths.WEIGHTS,
    log:
        f"{RUN}/logs/import-{{step}}-{{weights}}.log",
    benchmark:
        f"{RUN}/benchmarks/import-{{step}}-{{weights}}.tsv"
    wildcard_constraints:
        run=one_of(study.imported_runs),
    priority: 10**9
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=request("import_checkpoint").mem_mb,
        runtime=request("import_checkpoint").runtime,
        gpu=0,
    params:
        options=training.import_options,
    shell:
        "exec python -m selftrans import {input:q} {params.options}"
        " --weights {wildcards.weights} --output {output} > {log} 2>&1"


rule freeze_teacher:
    input:
        paths.WEIGHTS,
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
        mem_mb=request("freeze_teacher").mem_mb,
        runtime=request("freeze_teacher").runtime,
        gpu=0,
    shell:
        "exec python -m selftrans freeze {input} --depth {wildcards.depth}"
        " --output {output} > {log} 2>&1"


rule train:
    input:
        training.targets(),
    localrule: True
