# Every plot inherits from this rule: a light job on the submitting machine. A plot names its
# inputs, outputs, script and further params. `use rule` does not pass on `localrule`.
rule plot_base:
    log:
        "results/plot.log",
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=request("plot").mem_mb,
        runtime=request("plot").runtime,
        gpu=0,
    params:
        style=figures.style,
    script:
        "../scripts/plot.py"


use rule plot_base as plot_convergence with:
    input:
        table=paths.METRICS_TABLE,
    output:
        report(
            f"{FIGURES}/convergence.png",
            category="Figures",
            caption="../report/convergence.rst",
            labels=entry_labels("convergence"),
        ),
        f"{FIGURES}/convergence.pdf",
    log:
        f"{EXPERIMENT}/logs/convergence.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/convergence.tsv"
    localrule: True
    params:
        script=plot_script("convergence"),
        sampler=figures.sampler,
        labels=figures.main_labels,
        published=figures.published,
        imported=figures.imported_runs,
        baseline=figures.baseline,


use rule plot_base as plot_grid with:
    input:
        table=paths.METRICS_TABLE,
    output:
        report(
            f"{FIGURES}/grid-{{grid}}.png",
            category="Grids",
            caption="../report/grid.rst",
            labels=entry_labels("grid", grid="{grid}"),
        ),
        f"{FIGURES}/grid-{{grid}}.pdf",
    log:
        f"{EXPERIMENT}/logs/grid-{{grid}}.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/grid-{{grid}}.tsv"
    localrule: True
    params:
        script=plot_script("convergence"),
        sampler=figures.sampler,
        labels=figures.grid_labels,
        published=None,
        imported=figures.imported_runs,
        baseline=None,


use rule plot_base as plot_losses with:
    input:
        histories=figures.last_histories,
    output:
        report(
            f"{FIGURES}/losses.png",
            category="Figures",
            caption="../report/losses.rst",
            labels=entry_labels("losses"),
        ),
        f"{FIGURES}/losses.pdf",
    log:
        f"{EXPERIMENT}/logs/losses.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/losses.tsv"
    localrule: True
    params:
        script=plot_script("losses"),
        labels=figures.compared_labels,
        runs=figures.last_history_runs,


use rule plot_base as plot_samples with:
    input:
        samples=figures.shown_samples,
        examples=figures.examples,
    output:
        report(
            f"{FIGURES}/samples.png",
            category="Figures",
            caption="../report/samples.rst",
            labels=entry_labels("samples"),
        ),
        f"{FIGURES}/samples.pdf",
    log:
        f"{EXPERIMENT}/logs/samples.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/samples.tsv"
    localrule: True
    params:
        script=plot_script("samples"),
        labels=figures.main_labels,
        rows=figures.shown_rows,
        columns=figures.columns,
        class_names=figures.class_names,
        sampler=figures.shown_sampler,


# Of any sampler, on request: results/EXPERIMENT/figures/samples-SAMPLER.png.
use rule plot_samples as plot_samples_of_sampler with:
    output:
        report(
            f"{FIGURES}/samples-{{sampler}}.png",
            category="Figures",
            caption="../report/samples.rst",
            labels=entry_labels("samples", sampler="{sampler}"),
        ),
        f"{FIGURES}/samples-{{sampler}}.pdf",
    log:
        f"{EXPERIMENT}/logs/samples-{{sampler}}.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/samples-{{sampler}}.tsv"
    localrule: True


use rule plot_base as plot_sweep with:
    input:
        table=paths.METRICS_TABLE,
    output:
        report(
            f"{FIGURES}/sweep-{{sweep}}.png",
            category="Figures",
            caption="../report/sweep.rst",
            labels=entry_labels("sweep", sweep="{sweep}"),
        ),
        f"{FIGURES}/sweep-{{sweep}}.pdf",
    log:
        f"{EXPERIMENT}/logs/sweep-{{sweep}}.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/sweep-{{sweep}}.tsv"
    localrule: True
    params:
        script=plot_script("sweep"),
        sets=figures.sweep_sets,
        labels=figures.main_labels,


use rule plot_base as plot_comparison with:
    input:
        table=paths.METRICS_TABLE,
        checkpoints=figures.checkpoint_records,
    output:
        png=report(
            f"{FIGURES}/comparison.png",
            category="Figures",
            caption="../report/comparison.rst",
            labels=entry_labels("comparison"),
        ),
        pdf=f"{FIGURES}/comparison.pdf",
        csv=report(
            f"{EXPERIMENT}/comparison.csv",
            category="Tables",
            caption="../report/comparison.rst",
            labels=entry_labels("comparison"),
        ),
        paired=f"{EXPERIMENT}/paired.csv",
        markdown=f"{EXPERIMENT}/comparison.md",
    log:
        f"{EXPERIMENT}/logs/comparison.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/comparison.tsv"
    localrule: True
    params:
        script=plot_script("comparison"),
        sampler=figures.sampler,
        labels=figures.run_labels,
        shown=figures.compared_labels,
        baseline=figures.baseline,
        teachers=figures.teachers_of_runs,
        checkpoints=figures.compared_checkpoints,
        stand_ins=figures.stand_ins,


use rule plot_base as plot_significance with:
    input:
        table=paths.METRICS_TABLE,
        checkpoints=figures.checkpoint_records,
        resampled=comparisons.resampled,
    output:
        png=report(
            f"{FIGURES}/significance.png",
            category="Figures",
            caption="../report/significance.rst",
            labels=entry_labels("significance"),
        ),
        pdf=f"{FIGURES}/significance.pdf",
        csv=report(
            paths.SIGNIFICANCE,
            category="Tables",
            caption="../report/significance.rst",
            labels=entry_labels("significance"),
        ),
        markdown=f"{EXPERIMENT}/significance.md",
    log:
        f"{EXPERIMENT}/logs/significance.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/significance.tsv"
    localrule: True
    params:
        script=plot_script("significance"),
        sampler=figures.sampler,
        labels=comparisons.labels,
        planned=comparisons.planned,
        baseline=figures.baseline,
        teachers=figures.teachers_of_runs,
        checkpoints=figures.compared_checkpoints,
        resampled_runs=comparisons.resampled_runs,
        resamples=comparisons.resamples,
        encoder_benchmarks=comparisons.encoder_benchmarks,
        encoders=comparisons.encoders_in_words,
        tuned=comparisons.tuned,


use rule plot_base as plot_dynamics with:
    input:
        histories=figures.histories_of_run,
    output:
        report(
            f"{FIGURES}/dynamics-{{run}}.png",
            category="Training dynamics",
            caption="../report/dynamics.rst",
            labels=entry_labels("dynamics", run="{run}"),
        ),
        f"{FIGURES}/dynamics-{{run}}.pdf",
    log:
        f"{EXPERIMENT}/logs/dynamics-{{run}}.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/dynamics-{{run}}.tsv"
    localrule: True
    params:
        script=plot_script("dynamics"),
        labels=figures.compared_labels,


use rule plot_base as plot_discriminability with:
    input:
        probes=analysis.all_probes,
        encoder=analysis.encoder_probe,
    output:
        csv=report(
            f"{EXPERIMENT}/discriminability.csv",
            category="Tables",
            caption="../report/discriminability.rst",
            labels=entry_labels("discriminability"),
        ),
        markdown=f"{EXPERIMENT}/discriminability.md",
        png=report(
            f"{FIGURES}/discriminability.png",
            category="Features",
            caption="../report/discriminability.rst",
            labels=entry_labels("discriminability"),
        ),
        pdf=f"{FIGURES}/discriminability.pdf",
    log:
        f"{EXPERIMENT}/logs/discriminability.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/discriminability.tsv"
    localrule: True
    params:
        script=plot_script("discriminability"),
        labels=figures.main_labels,
        runs=analysis.probed_runs,
        encoder=analysis.encoder_title,
        stand_ins=figures.stand_ins,


use rule plot_base as plot_feature_maps with:
    input:
        features=analysis.features_of_first_seed,
        data=ancient(study.data_file),
    output:
        png=report(
            f"{FIGURES}/feature-maps.png",
            category="Features",
            caption="../report/feature_maps.rst",
            labels=entry_labels("feature-maps"),
        ),
        pdf=f"{FIGURES}/feature-maps.pdf",
    log:
        f"{EXPERIMENT}/logs/feature-maps.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/feature-maps.tsv"
    localrule: True
    params:
        script=plot_script("feature_maps"),
        labels=figures.main_labels,
        runs=figures.main_runs,
        t=analysis.shown_time,


use rule plot_base as plot_guiding_features with:
    input:
        features=analysis.features_of_aligned_runs,
        data=ancient(study.data_file),
    output:
        png=report(
            f"{FIGURES}/guiding-features.png",
            category="Features",
            caption="../report/guiding_features.rst",
            labels=entry_labels("guiding-features"),
        ),
        pdf=f"{FIGURES}/guiding-features.pdf",
    log:
        f"{EXPERIMENT}/logs/guiding-features.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/guiding-features.tsv"
    localrule: True
    params:
        script=plot_script("guiding_features"),
        class_names=figures.class_names,
        labels=figures.main_labels,
        runs=figures.aligned_runs,
        t=analysis.shown_time,


use rule plot_base as plot_similarity with:
    input:
        features=analysis.features_of_first_seed,
    output:
        png=report(
            f"{FIGURES}/similarity.png",
            category="Features",
            caption="../report/similarity.rst",
            labels=entry_labels("similarity"),
        ),
        pdf=f"{FIGURES}/similarity.pdf",
    log:
        f"{EXPERIMENT}/logs/similarity.log",
    benchmark:
        f"{EXPERIMENT}/benchmarks/similarity.tsv"
    localrule: True
    resources:
        mem_mb=request("plot_similarity").mem_mb,
        runtime=request("plot_similarity").runtime,
        gpu=0,
    params:
        script=plot_script("similarity"),
        labels=figures.main_labels,
        runs=figures.main_runs,
        t=analysis.shown_time,


rule figures:
    input:
        figures.targets(),
    localrule: True
