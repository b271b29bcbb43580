rule plot_convergence:
    input:
        table="results/{experiment}/metrics.csv",
    output:
        report(
            f"{FIGURES}/convergence.png",
            category="Figures",
            caption="../report/convergence.rst",
        ),
        f"{FIGURES}/convergence.pdf",
    log:
        "results/{experiment}/logs/convergence.log",
    benchmark:
        "results/{experiment}/benchmarks/convergence.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        sampler=shown_sampler,
        style=figure_style,
        labels=main_labels,
        published=published_curves,
        imported=imported_runs_of,
    script:
        "../scripts/convergence.py"


rule plot_grid:
    input:
        table="results/{experiment}/metrics.csv",
    output:
        report(
            f"{FIGURES}/grid-{{grid}}.png",
            category="Grids",
            caption="../report/grid.rst",
        ),
        f"{FIGURES}/grid-{{grid}}.pdf",
    log:
        "results/{experiment}/logs/grid-{grid}.log",
    benchmark:
        "results/{experiment}/benchmarks/grid-{grid}.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        sampler=shown_sampler,
        style=figure_style,
        labels=grid_labels,
        published=None,
        imported=imported_runs_of,
    script:
        "../scripts/convergence.py"


rule plot_losses:
    input:
        histories=last_histories,
    output:
        report(
            f"{FIGURES}/losses.png", category="Figures", caption="../report/losses.rst"
        ),
        f"{FIGURES}/losses.pdf",
    log:
        "results/{experiment}/logs/losses.log",
    benchmark:
        "results/{experiment}/benchmarks/losses.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        style=figure_style,
        labels=compared_labels,
        runs=last_history_runs,
    script:
        "../scripts/losses.py"


rule plot_samples:
    input:
        samples=shown_samples,
    output:
        report(
            f"{FIGURES}/samples.png",
            category="Figures",
            caption="../report/samples.rst",
        ),
        f"{FIGURES}/samples.pdf",
    log:
        "results/{experiment}/logs/samples.log",
    benchmark:
        "results/{experiment}/benchmarks/samples.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        style=figure_style,
        labels=main_labels,
        rows=shown_rows,
        columns=lambda wildcards: EXPERIMENTS[
            wildcards.experiment
        ].figures.sample_columns,
    script:
        "../scripts/samples.py"


rule plot_sweep:
    input:
        table="results/{experiment}/metrics.csv",
    output:
        report(
            f"{FIGURES}/sweep-{{sweep}}.png",
            category="Figures",
            caption="../report/sweep.rst",
        ),
        f"{FIGURES}/sweep-{{sweep}}.pdf",
    log:
        "results/{experiment}/logs/sweep-{sweep}.log",
    benchmark:
        "results/{experiment}/benchmarks/sweep-{sweep}.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        sets=sweep_sets,
        style=figure_style,
        labels=main_labels,
    script:
        "../scripts/sweep.py"


rule plot_comparison:
    input:
        table="results/{experiment}/metrics.csv",
        checkpoints=checkpoint_records,
    output:
        png=report(
            f"{FIGURES}/comparison.png",
            category="Figures",
            caption="../report/comparison.rst",
        ),
        pdf=f"{FIGURES}/comparison.pdf",
        csv=report(
            "results/{experiment}/comparison.csv",
            category="Tables",
            caption="../report/comparison.rst",
        ),
        paired="results/{experiment}/paired.csv",
        markdown="results/{experiment}/comparison.md",
    log:
        "results/{experiment}/logs/comparison.log",
    benchmark:
        "results/{experiment}/benchmarks/comparison.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        sampler=shown_sampler,
        style=figure_style,
        labels=run_labels,
        shown=compared_labels,
        baseline=lambda wildcards: EXPERIMENTS[wildcards.experiment].baseline,
        teachers=teachers_of_runs,
        checkpoints=compared_checkpoints,
    script:
        "../scripts/comparison.py"


rule plot_dynamics:
    input:
        histories=histories_of_run,
    output:
        report(
            f"{FIGURES}/dynamics-{{run}}.png",
            category="Training dynamics",
            caption="../report/dynamics.rst",
        ),
        f"{FIGURES}/dynamics-{{run}}.pdf",
    log:
        "results/{experiment}/logs/dynamics-{run}.log",
    benchmark:
        "results/{experiment}/benchmarks/dynamics-{run}.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=light_memory,
        runtime=time_limit("light"),
        gpu=0,
    params:
        style=figure_style,
        labels=compared_labels,
    script:
        "../scripts/dynamics.py"


rule figures:
    input:
        [
            f"{FIGURES}/{figure}.{format}".format(experiment=name)
            for name, experiment in EXPERIMENTS.items()
            for figure in experiment.figure_names
            for format in ("png", "pdf")
        ],
    localrule: True


# What jobs need from elsewhere, fetched where there is a network: compute nodes often have none.
rule prefetch:
    log:
        "results/prefetch.log",
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=0,
    params:
        experiments=shlex.join(
            f"results/{name}/experiment.yaml" for name in EXPERIMENTS
        ),
        weights=shlex.join(
            f"--weights={extractor}={path}"
            for extractor, path in SETTINGS.weights.items()
        ),
    shell:
        "python -m selftrans.prefetch {params.experiments} {params.weights} 2>&1 | tee {log}"


# The report shows what is there; it is made by a second Snakemake, which reads and changes nothing.
rule report:
    input:
        rules.figures.input,
        rules.evaluate.input,
    output:
        "results/report.html",
    log:
        "results/report.log",
    benchmark:
        "results/report.tsv"
    localrule: True
    conda:
        "../../envs/selftrans.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
        gpu=0,
    params:
        config=json.dumps({"experiments": REFERENCES, "data": SETTINGS.data}),
    shell:
        'config=$(mktemp); trap \'rm -f "$config"\' EXIT; printf %s {params.config:q} > "$config";'
        ' snakemake figures evaluate --nolock --configfile "$config" --report {output} > {log} 2>&1'
