rule autoencoder:
    input:
        data=ancient("results/data/{dataset}/data.yaml"),
    output:
        [f"results/data/{{dataset}}/autoencoder/{name}" for name in AUTOENCODER_FILES],
    log:
        "results/data/{dataset}/logs/autoencoder.log",
    benchmark:
        "results/data/{dataset}/benchmarks/autoencoder.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("data", "threads")
    resources:
        mem_mb=memory("data"),
        runtime=time_limit("data"),
        gpu=resource("data", "gpu"),
    params:
        definition=lambda wildcards: data_definition(wildcards, "autoencoder"),
        directory=subpath(output[0], parent=True),
    shell:
        "exec python -m selftrans.training.auxiliary.autoencoder {input.data} --output {params.directory}"
        " --gpus {resources.gpu} > {log} 2>&1"


rule classifier:
    input:
        data=ancient("results/data/{dataset}/data.yaml"),
    output:
        "results/data/{dataset}/extractors/classifier.safetensors",
    log:
        "results/data/{dataset}/logs/classifier.log",
    benchmark:
        "results/data/{dataset}/benchmarks/classifier.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("data", "threads")
    resources:
        mem_mb=memory("data"),
        runtime=time_limit("data"),
        gpu=resource("data", "gpu"),
    params:
        definition=lambda wildcards: data_definition(wildcards, "classifier"),
    shell:
        "exec python -m selftrans.training.auxiliary.classifier {input.data} --output {output}"
        " --gpus {resources.gpu} > {log} 2>&1"


# An encoder that signals follow: the stand-in trained on the data, or published weights, as one file.
rule encoder:
    input:
        data=ancient("results/data/{dataset}/data.yaml"),
        weights=encoder_weights,
    output:
        "results/data/{dataset}/encoders/{encoder}.safetensors",
    log:
        "results/data/{dataset}/logs/encoder-{encoder}.log",
    benchmark:
        "results/data/{dataset}/benchmarks/encoder-{encoder}.tsv"
    priority: 10**9
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("data", "threads")
    resources:
        mem_mb=memory("data"),
        runtime=time_limit("data"),
        gpu=resource("data", "gpu"),
    params:
        definition=encoder_definition,
    shell:
        "exec python -m selftrans.training.auxiliary.encoder {input.data} --name {wildcards.encoder} --output {output}"
        " --gpus {resources.gpu} > {log} 2>&1"
