"""history.csv of a run's seeds -> its alignments while it trained."""

from selftrans.evaluation.tables import read_history
from selftrans.plotting.curves import dynamics
from selftrans.plotting.style import run_styles, save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    histories = [read_history(path) for path in snakemake.input.histories]
    style, run_style = (
        snakemake.params.style,
        run_styles(snakemake.params.labels)[snakemake.wildcards.run],
    )
    save(dynamics(histories, run_style, style["width_inches"]), snakemake.output, style["dpi"])
