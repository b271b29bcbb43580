"""Metrics files of the reader of scenes -> one table of accuracies, and Markdown to read."""

from pathlib import Path

from selftrans.evaluation.caption_table import caption_markdown, caption_table
from selftrans.evaluation.tables import read_result
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    params = snakemake.params
    results = [
        (name, read_result(Path(path)))
        for name, path in zip(params.samples, snakemake.input.metrics, strict=True)
    ]
    table = caption_table(results)
    write_text(Path(snakemake.output.csv), table.to_csv(index=False))
    markdown = caption_markdown(table, params.labels) + params.stand_ins
    write_text(Path(snakemake.output.markdown), markdown)
