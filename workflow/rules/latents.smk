rule extract_latents:
    input:
        autoencoder=lambda wildcards: autoencoder_files(wildcards.dataset),
        data=ancient("results/data/{dataset}/data.yaml"),
    output:
        "results/data/{dataset}/latents/manifest.json",
    log:
        "results/data/{dataset}/logs/latents.log",
    benchmark:
        "results/data/{dataset}/benchmarks/latents.tsv"
    retries: retries_of_latents()
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("extract", "threads")
    resources:
        mem_mb=memory("extract", memory_of_extraction),
        runtime=time_limit("extract", latents_minutes),
        gpu=resource("extract", "gpu"),
        processes=resource("extract", "processes"),
    params:
        definition=lambda wildcards: data_definition(
            wildcards, "autoencoder", "latents"
        ),
        autoencoder=lambda wildcards: autoencoder_of(wildcards.dataset),
        directory=subpath(output[0], parent=True),
    shell:
        "exec python -m selftrans.extraction.latents {input.data} --autoencoder {params.autoencoder:q}"
        " --output {params.directory} --gpus {resources.gpu} --processes {resources.processes} > {log} 2>&1"


rule extract_features:
    input:
        data=ancient("results/data/{dataset}/data.yaml"),
        encoder="results/data/{dataset}/encoders/{encoder}.safetensors",
    output:
        "results/data/{dataset}/features/{encoder}/manifest.json",
    log:
        "results/data/{dataset}/logs/features-{encoder}.log",
    benchmark:
        "results/data/{dataset}/benchmarks/features-{encoder}.tsv"
    priority: 10**9
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("extract", "threads")
    resources:
        mem_mb=memory("extract", memory_of_extraction),
        runtime=time_limit("extract", features_minutes),
        gpu=resource("extract", "gpu"),
        processes=resource("extract", "processes"),
    params:
        definition=lambda wildcards: data_definition(wildcards),
        directory=subpath(output[0], parent=True),
    shell:
        "exec python -m selftrans.extraction.features {input.data} --encoder {input.encoder}"
        " --output {params.directory} --gpus {resources.gpu} --processes {resources.processes} > {log} 2>&1"


rule latents:
    input:
        expand("results/data/{dataset}/latents/manifest.json", dataset=DATA),
    localrule: True
