"""Self-Transcendence: from images to the convergence figure.

Rules lie in workflow/rules/, the Python behind them in workflow/lib/, the science in experiments/.
"""

import signal

# A scheduler's warning before a job's time is up is meant for the training, which saves and stops;
# Snakemake waits for it.
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
include: "workflow/rules/page.smk"
include: "workflow/rules/tune.smk"


rule all:
    default_target: True
    input:
        rules.page.input,
        rules.figures.input,
        rules.evaluate.input,
        rules.train.input,
    localrule: True
