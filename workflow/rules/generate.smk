rule generate_samples:
    input:
        weights=weights_to_sample,
        autoencoder=autoencoder_of_experiment,
    output:
        samples=f"{SAMPLES}/samples.npz",
        description=f"{SAMPLES}/samples.json",
    log:
        f"{RUN}/logs/generate-{{step}}-{{sampler}}-n{{number}}.log",
    benchmark:
        f"{RUN}/benchmarks/generate-{{step}}-{{sampler}}-n{{number}}.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: asks("generate", "threads")
    resources:
        mem_mb=asks("generate", "mem_mb"),
        runtime=asks("generate", "runtime"),
        gpu=asks("generate", "gpu"),
        batch_size=asks("generate", "batch_size"),
    params:
        settings=sampler_definition,
        autoencoder=autoencoder_path_of_experiment,
    shell:
        "python -m selftrans.generation {input.weights} --autoencoder {params.autoencoder:q}"
        " --settings {params.settings:q} --batch-size {resources.batch_size} --output {output.samples}"
        " --gpus {resources.gpu} > {log} 2>&1"


rule generate:
    input:
        [
            f"{SAMPLES}/samples.npz".format(**samples)
            for experiment in EXPERIMENTS.values()
            for samples in sample_sets(experiment)
        ],
    localrule: True
