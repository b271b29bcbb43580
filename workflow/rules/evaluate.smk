rule reference_statistics:
    input:
        data=ancient("results/data/{dataset}/data.yaml"),
        extractor="results/data/{dataset}/extractors/{extractor}.safetensors",
    output:
        "results/data/{dataset}/reference/{extractor}.npz",
    log:
        "results/data/{dataset}/logs/reference-{extractor}.log",
    benchmark:
        "results/data/{dataset}/benchmarks/reference-{extractor}.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: asks("data", "threads")
    resources:
        mem_mb=asks("data", "mem_mb"),
        runtime=asks("data", "runtime"),
        gpu=asks("data", "gpu"),
        batch_size=asks("data", "batch_size"),
    params:
        definition=lambda wildcards: data_definition(wildcards),
    shell:
        "python -m selftrans.evaluation.collect --data {input.data} --{wildcards.extractor} {input.extractor}"
        " --output {output} --batch-size {resources.batch_size} --gpus {resources.gpu} > {log} 2>&1"


rule sample_statistics:
    input:
        samples=f"{SAMPLES}/samples.npz",
        extractor=of_data("extractors/{extractor}.safetensors"),
    output:
        f"{SAMPLES}/{{extractor}}.npz",
    log:
        f"{RUN}/logs/statistics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.log",
    benchmark:
        f"{RUN}/benchmarks/statistics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: asks("evaluate", "threads")
    resources:
        mem_mb=asks("evaluate", "mem_mb"),
        runtime=asks("evaluate", "runtime"),
        gpu=asks("evaluate", "gpu"),
        batch_size=asks("evaluate", "batch_size"),
    shell:
        "python -m selftrans.evaluation.collect --samples {input.samples} --{wildcards.extractor} {input.extractor}"
        " --output {output} --batch-size {resources.batch_size} --gpus {resources.gpu} > {log} 2>&1"


rule metrics:
    input:
        description=f"{SAMPLES}/samples.json",
        statistics=f"{SAMPLES}/{{extractor}}.npz",
        reference=of_data("reference/{extractor}.npz"),
    output:
        f"{SAMPLES}/{{extractor}}.json",
    log:
        f"{RUN}/logs/metrics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.log",
    benchmark:
        f"{RUN}/benchmarks/metrics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=asks("light", "mem_mb"),
        runtime=asks("light", "runtime"),
        gpu=0,
    params:
        metrics=lambda wildcards: EXPERIMENTS[wildcards.experiment].evaluation.metrics,
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
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=asks("light", "mem_mb"),
        runtime=asks("light", "runtime"),
        gpu=0,
    params:
        labels=run_labels,
    script:
        "../scripts/table.py"


rule evaluate:
    input:
        expand("results/{experiment}/metrics.csv", experiment=EXPERIMENTS),
    localrule: True
