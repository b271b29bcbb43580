rule reference_statistics:
    input:
        data=ancient(data_file),
        extractor="results/data/{dataset}/extractors/{extractor}.safetensors",
    output:
        "results/data/{dataset}/reference/{extractor}.npz",
    log:
        "results/data/{dataset}/logs/reference-{extractor}.log",
    benchmark:
        "results/data/{dataset}/benchmarks/reference-{extractor}.tsv"
    params:
        definition=lambda wildcards: data_definition(wildcards),
    threads: asks("data", "threads")
    resources:
        mem_mb=asks("data", "mem_mb"),
        runtime=asks("data", "runtime"),
        gpu=asks("data", "gpu"),
        batch_size=asks("data", "batch_size"),
    conda:
        "../../envs/selftrans.yaml"
    shell:
        "python -m selftrans.evaluation.collect --data {input.data} --{wildcards.extractor} {input.extractor}"
        " --output {output} --batch-size {resources.batch_size} --gpus {resources.gpu} > {log} 2>&1"


rule sample_statistics:
    input:
        samples=SAMPLES + "/samples.npz",
        extractor=of_data("extractors/{extractor}.safetensors"),
    output:
        SAMPLES + "/{extractor}.npz",
    log:
        RUN + "/logs/statistics-{step}-{sampler}-n{number}-{extractor}.log",
    benchmark:
        RUN + "/benchmarks/statistics-{step}-{sampler}-n{number}-{extractor}.tsv"
    threads: asks("evaluate", "threads")
    resources:
        mem_mb=asks("evaluate", "mem_mb"),
        runtime=asks("evaluate", "runtime"),
        gpu=asks("evaluate", "gpu"),
        batch_size=asks("evaluate", "batch_size"),
    conda:
        "../../envs/selftrans.yaml"
    shell:
        "python -m selftrans.evaluation.collect --samples {input.samples} --{wildcards.extractor} {input.extractor}"
        " --output {output} --batch-size {resources.batch_size} --gpus {resources.gpu} > {log} 2>&1"


rule metrics:
    input:
        description=SAMPLES + "/samples.json",
        statistics=SAMPLES + "/{extractor}.npz",
        reference=of_data("reference/{extractor}.npz"),
    output:
        SAMPLES + "/{extractor}.json",
    log:
        RUN + "/logs/metrics-{step}-{sampler}-n{number}-{extractor}.log",
    benchmark:
        RUN + "/benchmarks/metrics-{step}-{sampler}-n{number}-{extractor}.tsv"
    params:
        metrics=lambda wildcards: EXPERIMENTS[wildcards.experiment].evaluation.metrics,
    threads: 1
    resources:
        mem_mb=asks("light", "mem_mb"),
        runtime=asks("light", "runtime"),
        gpu=0,
    conda:
        "../../envs/selftrans.yaml"
    script:
        "../scripts/metrics.py"


rule table:
    input:
        metrics=all_metrics,
    output:
        csv=report("results/{experiment}/metrics.csv", category="Tables", caption="../report/metrics.rst"),
        markdown="results/{experiment}/metrics.md",
    log:
        "results/{experiment}/logs/table.log",
    benchmark:
        "results/{experiment}/benchmarks/table.tsv"
    params:
        labels=run_labels,
    threads: 1
    resources:
        mem_mb=asks("light", "mem_mb"),
        runtime=asks("light", "runtime"),
        gpu=0,
    conda:
        "../../envs/selftrans.yaml"
    script:
        "../scripts/table.py"


rule evaluate:
    localrule: True
    input:
        expand("results/{experiment}/metrics.csv", experiment=EXPERIMENTS),
