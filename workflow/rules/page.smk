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
