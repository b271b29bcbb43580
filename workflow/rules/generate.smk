rule generate_samples:
    input:
        weights=weights_to_sample,
        autoencoder=autoencoder_of_experiment,
    output:
        SAMPLES + "/samples.npz",
        SAMPLES + "/samples.json",
    log:
        RUN + "/logs/generate-{step}-{sampler}-n{number}.log",
    benchmark:
        RUN + "/benchmarks/generate-{step}-{sampler}-n{number}.tsv"
    params:
        settings=sampler_definition,
        autoencoder=autoencoder_path_of_experiment,
    threads: asks("generate", "threads")
    resources:
        mem_mb=asks("generate", "mem_mb"),
        runtime=asks("generate", "runtime"),
        gpu=asks("generate", "gpu"),
        batch_size=asks("generate", "batch_size"),
    conda:
        "../../envs/selftrans.yaml"
    shell:
        "python -m selftrans.generation {input.weights} --autoencoder {params.autoencoder:q}"
        " --settings {params.settings:q} --batch-size {resources.batch_size} --output {output[0]}"
        " --gpus {resources.gpu} > {log} 2>&1"


rule generate:
    localrule: True
    input:
        [
            SAMPLES.format(**samples) + "/samples.npz"
            for experiment in EXPERIMENTS.values()
            for samples in sample_sets(experiment)
        ],
