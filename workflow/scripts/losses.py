"""history.csv of every run, and the losses on held-out images beside it -> loss curves."""

from selftrans.evaluation.tables import read_held_out, read_history
from selftrans.plotting.curves import losses
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    histories = [read_history(path) for path in snakemake.input.histories]
    held_out = [read_held_out(path) for path in snakemake.input.histories]
    params, style = snakemake.params, snakemake.params.style
    figure = losses(histories, params.runs, params.labels, style["width_inches"], held_out)
    save(figure, snakemake.output, style["dpi"])
