"""history.csv of every run -> loss curves."""

from selftrans.evaluation.tables import read_history
from selftrans.plotting.curves import losses
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    histories = [read_history(path) for path in snakemake.input.histories]
    style = snakemake.params.style
    figure = losses(
        histories, snakemake.params.runs, snakemake.params.labels, style["width_inches"]
    )
    save(figure, snakemake.output, style["dpi"])
