rule generate_samples:
    input:
        weights=evaluation.weights_to_sample,
        autoencoder=datasets.autoencoder_files_of_experiment,
        prompts=datasets.prompts_of_experiment,
    output:
        samples=paths.SAMPLE_IMAGES,
        first=paths.FIRST_SAMPLES,
        description=paths.SAMPLES_DESCRIPTION,
    log:
        f"{RUN}/logs/generate-{{step}}-{{sampler}}-n{{number}}.log",
    benchmark:
        f"{RUN}/benchmarks/generate-{{step}}-{{sampler}}-n{{number}}.tsv"
    wildcard_constraints:
        experiment=one_of(study.keeping_samples),
    retries: request("generate_samples").retries(evaluation.jobs())
    conda:
        "../../envs/selftrans.yaml"
    threads: request("generate_samples").threads
    resources:
        mem_mb=request("generate_samples").mem_mb,
        runtime=request("generate_samples").runtime,
        gpu=request("generate_samples").gpu,
        device=request("generate_samples").device,
        processes=request("generate_samples").processes,
        batch_size=request("generate_samples").batch_size,
    params:
        settings=evaluation.sampler_definition,
        prompts=evaluation.prompts_option,
        autoencoder=datasets.decoder_option_of_experiment,
        events=paths.EVENTS,
    shell:
        "exec python -m selftrans generate {input.weights}"
        " {params.autoencoder} {params.prompts} --settings {params.settings:q}"
        " --batch-size {resources.batch_size} --output {output.samples} --events {params.events}"
        " --device {resources.device} --processes {resources.processes} > {log} 2>&1"


# 50,000 images at 256 pixels are 10 GB: an experiment may have them deleted after their
# statistics.
use rule generate_samples as generate_temporary_samples with:
    output:
        samples=temp(paths.SAMPLE_IMAGES),
        first=paths.FIRST_SAMPLES,
        description=paths.SAMPLES_DESCRIPTION,
    wildcard_constraints:
        experiment=one_of(study.experiments_except(study.keeping_samples)),


# What stands above the samples in figures: real images of the same classes or captions, and what
# the autoencoder makes of them.
rule class_examples:
    input:
        latents=ancient(datasets.latents),
        data=ancient(datasets.shown_data),
        autoencoder=datasets.autoencoder_files_of_experiment,
        prompts=datasets.prompts_of_experiment,
    output:
        paths.EXAMPLES,
    log:
        f"{EXPERIMENT}/logs/examples.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/examples.tsv"
    conda:
        "../../envs/selftrans.yaml"
    threads: request("class_examples").threads
    resources:
        mem_mb=request("class_examples").mem_mb,
        runtime=request("class_examples").runtime,
        gpu=0,
    params:
        definition=datasets.definition_of_experiment,
        decoder=datasets.decoder_of_experiment,
        autoencoder=datasets.autoencoder_of_experiment,
        columns=figures.columns,
        labels=figures.label_sequences,
    script:
        "../scripts/examples.py"


rule generate:
    input:
        evaluation.sample_targets(),
    localrule: True
