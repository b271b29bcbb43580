# What is best for each arm of an experiment with `tuning`, from trials that are trained and measured
# as any other run.
use rule plot_base as tuned with:
    input:
        table=paths.METRICS_TABLE,
    output:
        paths.TUNED,
    log:
        f"{EXPERIMENT}/logs/tuned.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/tuned.tsv"
    localrule: True
    params:
        script=plot_script("tuned"),
        sampler=figures.sampler,
        arms=tuning.arms,
        values=tuning.values,
        seeds=tuning.seeds,
        steps=tuning.steps,
        definitions=tuning.definitions,


rule tune:
    input:
        tuning.targets(),
    localrule: True
