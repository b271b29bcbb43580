"""metrics.csv -> metrics against steps for some runs, and what others published of them."""

from selftrans.evaluation.tables import read_metrics
from selftrans.plotting.convergence import convergence
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    params, style = snakemake.params, snakemake.params.style
    shown = read_metrics(snakemake.input.table, [params.sampler])
    figure = convergence(
        shown,
        params.labels,
        style["width_inches"],
        params.published,
        params.imported,
        params.baseline,
    )
    save(figure, snakemake.output, style["dpi"])
