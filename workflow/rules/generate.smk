rule generate_samples:
    input:
        weights=weights_to_sample,
        autoencoder=autoencoder_of_experiment,
    output:
        samples=f"{SAMPLES}/samples.npz",
        first=f"{SAMPLES}/first.npz",
        description=f"{SAMPLES}/samples.json",
    log:
        f"{RUN}/logs/generate-{{step}}-{{sampler}}-n{{number}}.log",
    benchmark:
        f"{RUN}/benchmarks/generate-{{step}}-{{sampler}}-n{{number}}.tsv"
    wildcard_constraints:
        experiment=one_of(KEEPING),
    retries: retries_of_sampling()
    conda:
        "../../envs/selftrans.yaml"
    threads: resource("generate", "threads")
    resources:
        mem_mb=memory("generate", memory_of_sampling),
        runtime=time_limit("generate", sampling_minutes),
        gpu=resource("generate", "gpu"),
        processes=resource("generate", "processes"),
        batch_size=resource("generate", "batch_size"),
    params:
        settings=sampler_definition,
        autoencoder=autoencoder_path_of_experiment,
    shell:
        "exec python -m selftrans.sampling.generate {input.weights} --autoencoder {params.autoencoder:q}"
        " --settings {params.settings:q} --batch-size {resources.batch_size} --output {output.samples}"
        " --gpus {resources.gpu} --processes {resources.processes} > {log} 2>&1"


# 50,000 images at 256 pixels are 10 GB: an experiment may let them go once their statistics are there.
use rule generate_samples as generate_temporary_samples with:
    output:
        samples=temp(f"{SAMPLES}/samples.npz"),
        first=f"{SAMPLES}/first.npz",
        description=f"{SAMPLES}/samples.json",
    wildcard_constraints:
        experiment=one_of(NOT_KEEPING),


rule generate:
    input:
        [
            path
            for experiment in EXPERIMENTS.values()
            for samples in sample_sets(experiment)
            for path in sample_targets(experiment, samples)
        ],
    localrule: True
