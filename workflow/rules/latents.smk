rule extract_latents:
    input:
        autoencoder=datasets.autoencoder_files,
        data=ancient(study.data_file),
    output:
        paths.LATENTS,
    log:
        f"{DATASET}/logs/latents.log",
    benchmark:
        f"{DATASET}/benchmarks/latents.tsv"
    retries: request("extract_latents").retries(datasets.jobs())
    conda:
        "../../envs/selftrans.yaml"
    threads: request("extract_latents").threads
    resources:
        mem_mb=request("extract_latents").mem_mb,
        runtime=request("extract_latents").runtime,
        gpu=request("extract_latents").gpu,
        device=request("extract_latents").device,
        processes=request("extract_latents").processes,
    params:
        definition=datasets.definition("autoencoder", "latents"),
        autoencoder=datasets.autoencoder_path,
        directory=subpath(output[0], parent=True),
        events=f"{paths.DATASET_EVENTS}/autoencoder",
    shell:
        "exec python -m selftrans extract latents {input.data}"
        " --autoencoder {params.autoencoder:q} --output {params.directory}"
        " --events {params.events} --device {resources.device} --processes {resources.processes}"
        " > {log} 2>&1"


rule extract_features:
    input:
        data=ancient(study.data_file),
        encoder=paths.ENCODER,
    output:
        paths.ENCODER_FEATURES,
    log:
        f"{DATASET}/logs/features-{{encoder}}.log",
    benchmark:
        paths.FEATURES_BENCHMARK
    priority: 10**9
    conda:
        "../../envs/selftrans.yaml"
    threads: request("extract_features").threads
    resources:
        mem_mb=request("extract_features").mem_mb,
        runtime=request("extract_features").runtime,
        gpu=request("extract_features").gpu,
        device=request("extract_features").device,
        processes=request("extract_features").processes,
    params:
        definition=datasets.definition(),
        directory=subpath(output[0], parent=True),
    shell:
        "exec python -m selftrans extract features {input.data} --encoder {input.encoder}"
        " --output {params.directory} --device {resources.device} --processes {resources.processes}"
        " > {log} 2>&1"


rule extract_captions:
    input:
        data=ancient(study.data_file),
        latents=datasets.skipped_of_captions,
    output:
        paths.CAPTIONS,
    log:
        f"{DATASET}/logs/captions.log",
    benchmark:
        f"{DATASET}/benchmarks/captions.tsv"
    priority: 10**9
    conda:
        "../../envs/selftrans.yaml"
    threads: request("extract_captions").threads
    resources:
        mem_mb=request("extract_captions").mem_mb,
        runtime=request("extract_captions").runtime,
        gpu=request("extract_captions").gpu,
        device=request("extract_captions").device,
        processes=request("extract_captions").processes,
    params:
        definition=datasets.definition("text_encoder"),
        directory=subpath(output[0], parent=True),
    shell:
        "exec python -m selftrans extract captions {input.data} --output {params.directory}"
        " --device {resources.device} --processes {resources.processes} > {log} 2>&1"


rule latents:
    input:
        datasets.targets(),
    localrule: True
