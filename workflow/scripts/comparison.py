"""metrics.csv and the time of every checkpoint -> comparison of all runs: table and figure."""

from pathlib import Path

from selftrans.evaluation.comparison import (
    comparison_page,
    comparison_table,
    paired_table,
    total_seconds,
)
from selftrans.evaluation.tables import read_metrics, read_seconds
from selftrans.plotting.curves import comparison
from selftrans.plotting.style import save
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    params, style = snakemake.params, snakemake.params.style
    table = read_metrics(snakemake.input.table, [params.sampler])
    seconds = {}
    for path, (run, seed, step) in zip(
        snakemake.input.checkpoints, params.checkpoints, strict=True
    ):
        seconds.setdefault(run, {}).setdefault(step, {})[seed] = read_seconds(Path(path))
    table = table[table["run"].isin(list(seconds))]
    rows = comparison_table(table, seconds, params.teachers, params.baseline)
    write_text(Path(snakemake.output.csv), rows.to_csv(index=False))
    write_text(
        Path(snakemake.output.paired), paired_table(table, params.baseline).to_csv(index=False)
    )
    markdown = Path(snakemake.output.markdown)
    figure = Path(snakemake.output.png).relative_to(markdown.parent)
    name = snakemake.wildcards.experiment
    page = comparison_page(rows, params.labels, params.baseline, name, str(figure))
    write_text(markdown, page + params.stand_ins)
    total = total_seconds(seconds, params.teachers)
    hours = [
        total[run][step][seed] / 3600
        for run, step, seed in table[["run", "step", "seed"]].itertuples(index=False)
    ]
    curves = comparison(table.assign(hours=hours), params.shown, style["width_inches"])
    save(curves, [snakemake.output.png, snakemake.output.pdf], style["dpi"])
