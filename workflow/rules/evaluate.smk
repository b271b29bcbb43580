# The published weights of Inception and DINOv2: looked for before any training, so that their
# absence is known at once.
rule extractor_weights:
    output:
        paths.EXTRACTOR_WEIGHTS,
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
        place=evaluation.search_option,
        fetch=evaluation.fetch_option(),
    shell:
        "exec python -m selftrans weights {wildcards.extractor} {resources.place}"
        " {resources.fetch} --record {output} > {log} 2>&1"


rule reference_statistics:
    input:
        data=ancient(study.data_file),
        extractor=evaluation.extractor_of_data,
        latents=datasets.list_of_skipped,
    output:
        statistics=paths.REFERENCE,
        features=paths.REFERENCE_FEATURES,
    log:
        f"{DATASET}/logs/reference-{{extractor}}.log",
    benchmark:
        f"{DATASET}/benchmarks/reference-{{extractor}}.tsv"
    priority: 10**9  # a missing reference is reported before any training
    conda:
        "../../envs/selftrans.yaml"
    threads: request("reference_statistics").threads
    resources:
        mem_mb=request("reference_statistics").mem_mb,
        runtime=request("reference_statistics").runtime,
        gpu=request("reference_statistics").gpu,
        device=request("reference_statistics").device,
        processes=request("reference_statistics").processes,
        batch_size=request("reference_statistics").batch_size,
        weights=evaluation.weights_option,
    params:
        definition=datasets.definition("reference"),
        images=datasets.reference_images,
    shell:
        "exec python -m selftrans statistics {params.images:q}"
        " --extractor {wildcards.extractor} {resources.weights} --output {output.statistics}"
        " --batch-size {resources.batch_size} --device {resources.device}"
        " --processes {resources.processes} > {log} 2>&1"


rule sample_statistics:
    input:
        images=paths.SAMPLE_IMAGES,
        extractor=evaluation.extractor_of_experiment,
    output:
        statistics=paths.STATISTICS,
        features=paths.SAMPLE_FEATURES,
    log:
        f"{RUN}/logs/statistics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.log",
    benchmark:
        f"{RUN}/benchmarks/statistics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: request("sample_statistics").threads
    resources:
        mem_mb=request("sample_statistics").mem_mb,
        runtime=request("sample_statistics").runtime,
        gpu=request("sample_statistics").gpu,
        device=request("sample_statistics").device,
        processes=request("sample_statistics").processes,
        batch_size=request("sample_statistics").batch_size,
        weights=evaluation.weights_option,
    shell:
        "exec python -m selftrans statistics {input.images}"
        " --extractor {wildcards.extractor} {resources.weights} --output {output.statistics}"
        " --batch-size {resources.batch_size} --device {resources.device}"
        " --processes {resources.processes} > {log} 2>&1"


rule metrics:
    input:
        description=evaluation.description,
        statistics=evaluation.statistics,
        features=evaluation.sample_features,
        reference=datasets.path(paths.REFERENCE),
        reference_features=datasets.path(paths.REFERENCE_FEATURES),
        classifier=ancient(evaluation.classifier),
    output:
        paths.METRICS,
    log:
        f"{RUN}/logs/metrics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.log",
    benchmark:
        f"{RUN}/benchmarks/metrics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.tsv"
    wildcard_constraints:
        extractor=one_of(EXTRACTORS),
    conda:
        "../../envs/selftrans.yaml"
    threads: request("metrics").threads
    resources:
        mem_mb=request("metrics").mem_mb,
        runtime=request("metrics").runtime,
        gpu=request("metrics").gpu,
    params:
        metrics=evaluation.metrics_of_extractor,
        distances=evaluation.distances,
        reference=datasets.reference_name,
        events=paths.EVENTS,
    script:
        "../scripts/metrics.py"


# FIDs of sets that are resampled from the images of one.
rule fid_resamples:
    input:
        statistics=evaluation.statistics,
        features=evaluation.sample_features,
        reference=datasets.path(paths.REFERENCE),
        reference_features=datasets.path(paths.REFERENCE_FEATURES),
        latents=ancient(datasets.path(paths.LATENTS)),
    output:
        paths.FID_RESAMPLES,
    log:
        f"{RUN}/logs/resamples{{resamples}}-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.log",
    benchmark:
        f"{RUN}/benchmarks/resamples{{resamples}}-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.tsv"
    wildcard_constraints:
        extractor=one_of(EXTRACTORS),
    conda:
        "../../envs/selftrans.yaml"
    threads: request("fid_resamples").threads
    resources:
        mem_mb=request("fid_resamples").mem_mb,
        runtime=request("fid_resamples").runtime,
        gpu=0,
    params:
        balanced=evaluation.has_balanced_classes,
    script:
        "../scripts/fid_resamples.py"


# Metrics that compare each picture with its caption.
rule caption_metrics:
    input:
        description=evaluation.description,
        images=evaluation.scored_images,
        prompts=datasets.prompts_of_experiment,
        reader=ancient(evaluation.reader),
    output:
        paths.METRICS,
    log:
        f"{RUN}/logs/metrics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.log",
    benchmark:
        f"{RUN}/benchmarks/metrics-{{step}}-{{sampler}}-n{{number}}-{{extractor}}.tsv"
    wildcard_constraints:
        extractor=one_of(SCORERS),
    conda:
        "../../envs/selftrans.yaml"
    threads: request("caption_metrics").threads
    resources:
        mem_mb=request("caption_metrics").mem_mb,
        runtime=request("caption_metrics").runtime,
        gpu=request("caption_metrics").gpu,
        device=request("caption_metrics").device,
        batch_size=request("caption_metrics").batch_size,
    params:
        metrics=evaluation.scored_metrics,
        weights=evaluation.scorer_weights,
    shell:
        "exec python -m selftrans score {input.images} --prompts {input.prompts}"
        " --scorer {wildcards.extractor} --weights {params.weights:q} --metrics {params.metrics}"
        " --output {output} --batch-size {resources.batch_size} --device {resources.device}"
        " > {log} 2>&1"


rule table:
    input:
        metrics=evaluation.all_metrics,
    output:
        csv=report(
            paths.METRICS_TABLE,
            category="Tables",
            caption="../report/metrics.rst",
            labels={"content": "Metrics"},
        ),
        markdown=f"{EXPERIMENT}/metrics.md",
    log:
        f"{EXPERIMENT}/logs/table.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/table.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=request("table").mem_mb,
        runtime=request("table").runtime,
        gpu=0,
    params:
        labels=figures.run_labels,
        maskings=figures.maskings,
        published=figures.published_rows,
        stand_ins=figures.stand_ins,
    script:
        "../scripts/table.py"


# What the reader of scenes finds, attribute by attribute.
rule caption_accuracy:
    input:
        metrics=evaluation.read_metrics,
    output:
        csv=report(
            paths.CAPTION_ACCURACY,
            category="Tables",
            caption="../report/caption_accuracy.rst",
            labels={"content": "Captions"},
        ),
        markdown=f"{EXPERIMENT}/caption-accuracy.md",
    log:
        f"{EXPERIMENT}/logs/caption-accuracy.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/caption-accuracy.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=request("table").mem_mb,
        runtime=request("table").runtime,
        gpu=0,
    params:
        labels=figures.run_labels,
        samples=evaluation.read_samples,
        stand_ins=figures.stand_ins,
    script:
        "../scripts/caption_accuracy.py"


rule evaluate:
    input:
        evaluation.targets(),
    localrule: True
