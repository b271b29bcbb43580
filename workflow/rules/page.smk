# One page of HTML for each experiment, which holds all that it shows.
use rule plot_base as experiment_page with:
    input:
        runs=ancient(paths.RUNS),
        metrics=paths.METRICS_TABLE,
        comparison=pages.comparison,
        probes=pages.probes,
        figures=pages.pictures,
        histories=figures.last_histories,
        checkpoints=figures.checkpoint_records,
        weights=pages.weights,
        samples=pages.samples,
        examples=figures.examples,
    output:
        paths.PAGE,
    log:
        f"{EXPERIMENT}/logs/page.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/page.tsv"
    localrule: True
    params:
        script=plot_script("page"),
        assets=assets_digests(),
        settings=pages.settings,
        sample_keys=pages.sample_keys,


rule page:
    input:
        pages.targets(),
    localrule: True


# A report shows the present results of an experiment; a second Snakemake makes it, which reads and
# changes nothing.
rule experiment_report:
    input:
        rules.figures.input,
        rules.evaluate.input,
    output:
        paths.REPORT,
    log:
        f"{EXPERIMENT}/logs/report.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/report.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
        gpu=0,
    params:
        config=reports.config,
    shell:
        'config=$(mktemp); trap \'rm -f "$config"\' EXIT; printf %s {params.config:q} > "$config";'
        ' snakemake figures evaluate --nolock --configfile "$config" --report {output}'
        " > {log} 2>&1"


rule report:
    input:
        reports.targets(),
    localrule: True
