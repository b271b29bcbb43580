"""Self-Transcendence: from images to the convergence figure. Rules lie in workflow/rules/, the science in experiments/."""

import signal

# What a scheduler sends before a job's time is up is meant for the training: it saves and leaves, Snakemake stays.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/latents.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/plot.smk"


rule all:
    default_target: True
    input:
        rules.figures.input,
        rules.evaluate.input,
        rules.train.input,
    localrule: True
