"""metrics.csv, times and resampled FIDs -> planned comparisons: table, page and figure."""

from pathlib import Path

from selftrans.evaluation.comparison import curves_of
from selftrans.evaluation.significance import Costs
from selftrans.evaluation.significance_table import (
    fid_cautions,
    measured_seconds,
    read_resampled,
    significance_page,
    significance_table,
)
from selftrans.evaluation.tables import read_metrics, read_seconds
from selftrans.plotting.significance import significance
from selftrans.plotting.style import save
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    files, params = snakemake.input, snakemake.params
    table = read_metrics(files.table, [params.sampler])
    fids = curves_of(table[table["run"].isin(list(params.labels))], "fid")
    seconds = {}
    for path, (run, seed, step) in zip(files.checkpoints, params.checkpoints, strict=True):
        seconds.setdefault(run, {}).setdefault(step, {})[seed] = read_seconds(Path(path))
    encoders = {run: measured_seconds(paths) for run, paths in params.encoder_benchmarks.items()}
    resampled = {}
    for path, (run, seed) in zip(files.resampled, params.resampled_runs, strict=True):
        resampled.setdefault(run, {})[seed] = read_resampled(Path(path))
    costs = Costs.of(seconds, params.teachers, encoders)
    rows = significance_table(
        fids, costs, params.planned, params.baseline, resampled, fid_cautions(table)
    )
    write_text(Path(snakemake.output.csv), rows.to_csv(index=False))
    markdown = Path(snakemake.output.markdown)
    figure = Path(snakemake.output.png).relative_to(markdown.parent)
    page = significance_page(
        rows, params.labels, snakemake.wildcards.experiment, str(figure), params.resamples,
        params.encoders, params.tuned,
    )  # fmt: skip
    write_text(markdown, page)
    drawn = significance(rows, params.labels, params.baseline, params.style["width_inches"])
    save(drawn, [snakemake.output.png, snakemake.output.pdf], params.style["dpi"])
