# What jobs need from elsewhere, fetched where there is a network: compute nodes often have none.
rule prefetch:
    log:
        "results/prefetch.log",
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=0,
    params:
        options=prefetch_options(study),
        library=workflow.basedir,
    shell:
        "python -m selftrans --project {params.library:q} prefetch --config config.yaml"
        " {params.options} 2>&1 | tee {log}"


rule autoencoder:
    input:
        data=ancient(study.data_file),
    output:
        [f"{paths.AUTOENCODER}/{name}" for name in paths.AUTOENCODER_FILES],
    log:
        f"{DATASET}/logs/autoencoder.log",
    benchmark:
        f"{DATASET}/benchmarks/autoencoder.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: request("autoencoder").threads
    resources:
        mem_mb=request("autoencoder").mem_mb,
        runtime=request("autoencoder").runtime,
        gpu=request("autoencoder").gpu,
        device=request("autoencoder").device,
    params:
        definition=datasets.definition("autoencoder"),
        directory=subpath(output[0], parent=True),
    shell:
        "exec python -m selftrans autoencoder {input.data}"
        " --output {params.directory} --device {resources.device} > {log} 2>&1"


rule classifier:
    input:
        data=ancient(study.data_file),
    output:
        paths.CLASSIFIER,
    log:
        f"{DATASET}/logs/classifier.log",
    benchmark:
        f"{DATASET}/benchmarks/classifier.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: request("classifier").threads
    resources:
        mem_mb=request("classifier").mem_mb,
        runtime=request("classifier").runtime,
        gpu=request("classifier").gpu,
        device=request("classifier").device,
    params:
        definition=datasets.definition("classifier"),
    shell:
        "exec python -m selftrans classifier {input.data} --output {output}"
        " --device {resources.device} > {log} 2>&1"


# What reads off samples of drawn scenes what they show.
rule train_reader:
    input:
        data=ancient(study.data_file),
    output:
        paths.READER,
    log:
        f"{DATASET}/logs/reader.log",
    benchmark:
        f"{DATASET}/benchmarks/reader.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: request("train_reader").threads
    resources:
        mem_mb=request("train_reader").mem_mb,
        runtime=request("train_reader").runtime,
        gpu=request("train_reader").gpu,
        device=request("train_reader").device,
    params:
        definition=datasets.reader_definition,
    shell:
        "exec python -m selftrans reader {input.data} --output {output}"
        " --device {resources.device} > {log} 2>&1"


# An encoder that alignments follow: a stand-in trained on the data, or published weights, as a
# file.
rule encoder:
    input:
        data=ancient(study.data_file),
        weights=datasets.encoder_weights,
    output:
        paths.ENCODER,
    log:
        f"{DATASET}/logs/encoder-{{encoder}}.log",
    benchmark:
        paths.ENCODER_BENCHMARK
    priority: 10**9
    conda:
        "../../envs/selftrans.yaml"
    threads: request("encoder").threads
    resources:
        mem_mb=request("encoder").mem_mb,
        runtime=request("encoder").runtime,
        gpu=request("encoder").gpu,
        device=request("encoder").device,
    params:
        definition=datasets.encoder_definition,
    shell:
        "exec python -m selftrans encoder {input.data}"
        " --name {wildcards.encoder} --output {output} --device {resources.device} > {log} 2>&1"
