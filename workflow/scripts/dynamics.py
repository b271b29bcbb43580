"""history.csv of a run's seeds -> what its signals did while it trained."""

import pandas as pd

from selftrans.plotting.curves import dynamics
from selftrans.plotting.style import looks, save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    histories = [pd.read_csv(path) for path in snakemake.input.histories]
    style, look = snakemake.params.style, looks(snakemake.params.labels)[snakemake.wildcards.run]
    save(dynamics(histories, look, style["width_inches"]), snakemake.output, style["dpi"])
