"""metrics.csv -> FID against steps for all runs."""

import pandas as pd

from selftrans.plotting.curves import convergence
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    table = pd.read_csv(
        snakemake.input.table, dtype={"run": str, "samples": str}, keep_default_na=False, na_values=[""]
    )
    shown = table[table["samples"] == snakemake.params.sampler]
    style = snakemake.params.style
    save(convergence(shown, snakemake.params.labels, style["width_inches"]), snakemake.output, style["dpi"])
