# What the features of trained models look like, and what can be read off them. Nothing here touches a training.
rule block_features:
    input:
        checkpoints=analysed_checkpoints,
        experiment=ancient("results/{experiment}/experiment.yaml"),
        latents=latents_of_experiment,
        teachers=teacher_files,
        features=feature_stores,
        encoders=encoder_files,
    output:
        FEATURES,
    log:
        f"{RUN}/logs/features.log",
    benchmark:
        f"{RUN}/benchmarks/features.tsv"
    wildcard_constraints:
        experiment=one_of(ANALYSED),
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("evaluate", "threads")
    resources:
        mem_mb=memory("evaluate", memory_of_block_features),
        runtime=time_limit("evaluate", otherwise=LONG_MINUTES),
        gpu=resource("evaluate", "gpu"),
        batch_size=resource("evaluate", "batch_size"),
    params:
        definition=analysis_definition,
        alignment=alignment_options,
    shell:
        "exec python -m selftrans.evaluation.features {input.experiment} --run {wildcards.run} --seed {wildcards.seed}"
        " --checkpoints {input.checkpoints} --latents {input.latents} {params.alignment} --output {output}"
        " --batch-size {resources.batch_size} --gpus {resources.gpu} > {log} 2>&1"


rule probe_blocks:
    input:
        features=FEATURES,
    output:
        PROBES,
    log:
        f"{RUN}/logs/probes.log",
    benchmark:
        f"{RUN}/benchmarks/probes.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("evaluate", "threads")
    resources:
        mem_mb=memory("evaluate", memory_of_probes),
        runtime=time_limit("evaluate", otherwise=LONG_MINUTES),
        gpu=0,
    params:
        neighbours=lambda wildcards: analysis_of(wildcards).neighbours,
    script:
        "../scripts/probes.py"


rule probe_encoder:
    input:
        encoder=dataset_path("encoders/{encoder}.safetensors"),
        data=ancient(dataset_path("data.yaml")),
        features=lambda wildcards: features_of_first_seed(wildcards)[0],
    output:
        "results/{experiment}/encoders/{encoder}/probes.csv",
    log:
        "results/{experiment}/logs/probes-{encoder}.log",
    benchmark:
        "results/{experiment}/benchmarks/probes-{encoder}.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("evaluate", "threads")
    resources:
        mem_mb=memory("evaluate"),
        runtime=time_limit("evaluate", otherwise=LONG_MINUTES),
        gpu=resource("evaluate", "gpu"),
        batch_size=resource("evaluate", "batch_size"),
    params:
        neighbours=lambda wildcards: analysis_of(wildcards).neighbours,
    script:
        "../scripts/probe_encoder.py"


rule plot_discriminability:
    input:
        probes=all_probes,
        encoder=encoder_probe,
    output:
        csv=report(
            "results/{experiment}/discriminability.csv",
            category="Tables",
            caption="../report/discriminability.rst",
        ),
        markdown="results/{experiment}/discriminability.md",
        png=report(
            f"{FIGURES}/discriminability.png",
            category="Features",
            caption="../report/discriminability.rst",
        ),
        pdf=f"{FIGURES}/discriminability.pdf",
    log:
        "results/{experiment}/logs/discriminability.log",
    benchmark:
        "results/{experiment}/benchmarks/discriminability.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        style=figure_style,
        labels=main_labels,
        runs=probed_runs,
        encoder=encoder_title,
    script:
        "../scripts/discriminability.py"


rule plot_feature_maps:
    input:
        features=features_of_first_seed,
        data=ancient(dataset_path("data.yaml")),
    output:
        png=report(
            f"{FIGURES}/feature-maps.png",
            category="Features",
            caption="../report/feature_maps.rst",
        ),
        pdf=f"{FIGURES}/feature-maps.pdf",
    log:
        "results/{experiment}/logs/feature-maps.log",
    benchmark:
        "results/{experiment}/benchmarks/feature-maps.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        style=figure_style,
        labels=main_labels,
        runs=lambda wildcards: list(EXPERIMENTS[wildcards.experiment].runs),
        t=lambda wildcards: analysis_of(wildcards).shown_time,
    script:
        "../scripts/feature_maps.py"


rule plot_guiding_features:
    input:
        features=features_of_aligned_runs,
        data=ancient(dataset_path("data.yaml")),
    output:
        png=report(
            f"{FIGURES}/guiding-features.png",
            category="Features",
            caption="../report/guiding_features.rst",
        ),
        pdf=f"{FIGURES}/guiding-features.pdf",
    log:
        "results/{experiment}/logs/guiding-features.log",
    benchmark:
        "results/{experiment}/benchmarks/guiding-features.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        style=figure_style,
        labels=main_labels,
        runs=lambda wildcards: EXPERIMENTS[wildcards.experiment].aligned_runs,
        t=lambda wildcards: analysis_of(wildcards).shown_time,
    script:
        "../scripts/guiding_features.py"


rule plot_similarity:
    input:
        features=features_of_first_seed,
    output:
        png=report(
            f"{FIGURES}/similarity.png",
            category="Features",
            caption="../report/similarity.rst",
        ),
        pdf=f"{FIGURES}/similarity.pdf",
    log:
        "results/{experiment}/logs/similarity.log",
    benchmark:
        "results/{experiment}/benchmarks/similarity.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=memory("evaluate"),
        runtime=time_limit("evaluate"),
        gpu=0,
    params:
        style=figure_style,
        labels=main_labels,
        runs=lambda wildcards: list(EXPERIMENTS[wildcards.experiment].runs),
        t=lambda wildcards: analysis_of(wildcards).shown_time,
    script:
        "../scripts/similarity.py"
