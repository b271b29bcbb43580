"""metrics.csv -> FID against steps for all runs."""

from selftrans.evaluation.tables import read_metrics
from selftrans.plotting.curves import convergence
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    params, style = snakemake.params, snakemake.params.style
    shown = read_metrics(snakemake.input.table, [params.sampler])
    save(convergence(shown, params.labels, style["width_inches"]), snakemake.output, style["dpi"])
