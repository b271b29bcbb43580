# The published weights of Inception and DINOv2: looked for before anything is trained, so that their absence is known at once.
rule extractor_weights:
    output:
        "results/extractors/{extractor}.json",
    log:
        "results/extractors/{extractor}.log",
    benchmark:
        "results/extractors/{extractor}.tsv"
    priority: 10**9
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=60,
        gpu=0,
        place=lambda wildcards: (
            f"--path {shlex.quote(SETTINGS.weights[wildcards.extractor])}"
            if wildcards.extractor in SETTINGS.weights
            else ""
        ),
        fetch="--fetch" if SETTINGS.fetch_weights else "",
    shell:
        "exec python -m selftrans.evaluation.weights {wildcards.extractor} {resources.place} {resources.fetch}"
        " --record {output} > {log} 2>&1"


rule reference_statistics:
    input:
        data=ancient("results/data/{dataset}/data.yaml"),
        extractor=extractor_of_data,
        latents=list_of_skipped,
    output:
        statistics="results/data/{dataset}/reference/{extractor}.npz",
        features="results/data/{dataset}/reference/{extractor}-features.npy",
    log:
        "results/data/{dataset}/logs/reference-{extractor}.log",
    benchmark:
        "results/data/{dataset}/benchmarks/reference-{extractor}.tsv"
    priority: 10**9  # a reference that is not there is said before anything is trained
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("data", "threads")
    resources:
        mem_mb=memory("data", memory_of_statistics),
        runtime=time_limit("data", reference_minutes, otherwise=LONG_MINUTES),
        gpu=resource("data", "gpu"),
        processes=resource("data", "processes"),
        batch_size=resource("data", "batch_size"),
        weights=weights_option,
    params:
        definition=lambda wildcards: data_definition(wildcards, "reference"),
        images=reference_images,
    shell:
        "exec python -m selftrans.evaluation.compute_statistics {params.images:q} --extractor {wildcards.extractor} {resources.weights}"
        " --output {output.statistics} --batch-size {resources.batch_size} --gpus {resources.gpu}"
        " --processes {resources.processes} > {log} 2>&1"


rule sample_statistics:
    input:
        images=f"{SAMPLES}/samples.npz",
        extractor=extractor_of_experiment,
    output:
        statistics=f"{SAMPLES}/{{extractor}}.npz",
        features=f"{SAMPLES}/{{extractor}}-features.npy",
    log:
        f"{RUN}/logs/statistics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.log",
    benchmark:
        f"{RUN}/benchmarks/statistics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("evaluate", "threads")
    resources:
        mem_mb=memory("evaluate", memory_of_statistics),
        runtime=time_limit("evaluate", statistics_minutes, share=2),
        gpu=resource("evaluate", "gpu"),
        processes=resource("evaluate", "processes"),
        batch_size=resource("evaluate", "batch_size"),
        weights=weights_option,
    shell:
        "exec python -m selftrans.evaluation.compute_statistics {input.images} --extractor {wildcards.extractor} {resources.weights}"
        " --output {output.statistics} --batch-size {resources.batch_size} --gpus {resources.gpu}"
        " --processes {resources.processes} > {log} 2>&1"


rule metrics:
    input:
        description=f"{SAMPLES}/samples.json",
        statistics=f"{SAMPLES}/{{extractor}}.npz",
        features=f"{SAMPLES}/{{extractor}}-features.npy",
        reference=dataset_path("reference/{extractor}.npz"),
        reference_features=dataset_path("reference/{extractor}-features.npy"),
    output:
        f"{SAMPLES}/{{extractor}}.json",
    log:
        f"{RUN}/logs/metrics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.log",
    benchmark:
        f"{RUN}/benchmarks/metrics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: asks_for_metrics(resource("light", "threads"), resource("evaluate", "threads"))
    resources:
        mem_mb=metrics_memory,
        runtime=asks_for_metrics(
            time_limit("light", share=2), time_limit("evaluate", share=2)
        ),
        gpu=asks_for_metrics(resource("light", "gpu"), resource("evaluate", "gpu")),
    params:
        metrics=metrics_of_extractor,
        distances=lambda wildcards: EXPERIMENTS[
            wildcards.experiment
        ].evaluation.distances,
    script:
        "../scripts/metrics.py"


rule table:
    input:
        metrics=all_metrics,
    output:
        csv=report(
            "results/{experiment}/metrics.csv",
            category="Tables",
            caption="../report/metrics.rst",
        ),
        markdown="results/{experiment}/metrics.md",
    log:
        "results/{experiment}/logs/table.log",
    benchmark:
        "results/{experiment}/benchmarks/table.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        labels=run_labels,
    script:
        "../scripts/table.py"


rule evaluate:
    input:
        expand("results/{experiment}/metrics.csv", experiment=EXPERIMENTS),
    localrule: True
