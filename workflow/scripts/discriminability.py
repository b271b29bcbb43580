"""Probe accuracies of every run, seed and encoder -> one table, Markdown to read, and a figure."""

from pathlib import Path

import pandas as pd

from selftrans.evaluation.probes import discriminability_markdown
from selftrans.evaluation.tables import read_table
from selftrans.plotting.features import discriminability
from selftrans.plotting.style import save
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    labels, encoder, style = (
        snakemake.params.labels,
        snakemake.params.encoder,
        snakemake.params.style,
    )
    columns = ("kind", "name", "linear", "knn")
    parts = [
        read_table(path, *columns, keep_default_na=False).assign(run=run, seed=seed)
        for path, (run, seed) in zip(snakemake.input.probes, snakemake.params.runs, strict=True)
    ]
    parts += [
        read_table(path, *columns, keep_default_na=False).assign(run=encoder, seed=0)
        for path in snakemake.input.encoder
    ]
    table = pd.concat(parts, ignore_index=True)
    write_text(Path(snakemake.output.csv), table.to_csv(index=False))
    named = table.assign(run=table["run"].replace(labels))
    markdown = discriminability_markdown(named) + snakemake.params.stand_ins
    write_text(Path(snakemake.output.markdown), markdown)
    figures = [snakemake.output.png, snakemake.output.pdf]
    save(discriminability(table, labels, encoder, style["width_inches"]), figures, style["dpi"])
