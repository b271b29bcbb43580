"""metrics.csv -> FID against guidance scale for all runs."""

import pandas as pd

from selftrans.plotting.curves import sweep
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    table = pd.read_csv(
        snakemake.input.table, dtype={"run": str, "samples": str}, keep_default_na=False, na_values=[""]
    )
    shown = table[table["samples"].isin(snakemake.params.sets)]
    style = snakemake.params.style
    save(sweep(shown, snakemake.params.labels, style["width_inches"]), snakemake.output, style["dpi"])
