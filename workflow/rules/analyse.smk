# What the features of trained models look like, and what probes read off them. Nothing here
# touches a training.
rule block_features:
    input:
        checkpoints=analysis.checkpoints,
        experiment=ancient(study.experiment_file),
        latents=datasets.latents,
        captions=training.captions,
        teachers=training.teacher_files,
        features=training.feature_stores,
        encoders=training.encoder_files,
    output:
        FEATURES,
    log:
        f"{RUN}/logs/features.log",
    benchmark:
        f"{RUN}/benchmarks/features.tsv"
    wildcard_constraints:
        experiment=one_of(study.analysed),
    conda:
        "../../envs/selftrans.yaml"
    threads: request("block_features").threads
    resources:
        mem_mb=request("block_features").mem_mb,
        runtime=request("block_features").runtime,
        gpu=request("block_features").gpu,
        device=request("block_features").device,
        batch_size=request("block_features").batch_size,
    params:
        definition=analysis.definition,
        inputs=training.input_options,
    shell:
        "exec python -m selftrans features {input.experiment} {input.checkpoints} --run {wildcards.run}"
        " --seed {wildcards.seed} --latents {input.latents}"
        " {params.inputs} --output {output} --batch-size {resources.batch_size}"
        " --device {resources.device} > {log} 2>&1"


rule probe_blocks:
    input:
        features=analysis.features,
    output:
        PROBES,
    log:
        f"{RUN}/logs/probes.log",
    benchmark:
        f"{RUN}/benchmarks/probes.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: request("probe_blocks").threads
    resources:
        mem_mb=request("probe_blocks").mem_mb,
        runtime=request("probe_blocks").runtime,
        gpu=0,
    params:
        neighbours=analysis.neighbours,
    script:
        "../scripts/probes.py"


rule probe_encoder:
    input:
        encoder=datasets.path(paths.ENCODER),
        data=ancient(study.data_file),
        features=analysis.features_of_first_run,
    output:
        paths.ENCODER_PROBES,
    log:
        f"{EXPERIMENT}/logs/probes-{{encoder}}.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/probes-{{encoder}}.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: request("probe_encoder").threads
    resources:
        mem_mb=request("probe_encoder").mem_mb,
        runtime=request("probe_encoder").runtime,
        gpu=request("probe_encoder").gpu,
        batch_size=request("probe_encoder").batch_size,
    params:
        neighbours=analysis.neighbours,
    script:
        "../scripts/probe_encoder.py"
