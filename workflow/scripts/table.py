"""The metrics of every set of samples -> metrics.csv, and Markdown to read."""

from pathlib import Path

from selftrans.evaluation.headline import headline_markdown
from selftrans.evaluation.markdown import metrics_markdown
from selftrans.evaluation.tables import metrics_table, read_result
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    params = snakemake.params
    table = metrics_table(
        [
            (Path(path).parts[-2].rpartition("-n")[0], read_result(Path(path)))
            for path in snakemake.input.metrics
        ],
        params.maskings,
    )
    write_text(Path(snakemake.output.csv), table.to_csv(index=False))
    headline = headline_markdown(table, params.labels, params.published)
    details = metrics_markdown(table, params.labels)
    write_text(Path(snakemake.output.markdown), f"{headline}\n{details}{params.stand_ins}")
