"""Everything that is known of an experiment -> its page."""

from pathlib import Path

from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to
from workflow.lib.page.render import PageInputs, render_page

with logged_to(snakemake.log[0]):
    files = snakemake.input
    inputs = PageInputs(
        runs=Path(files.runs),
        metrics=Path(files.metrics),
        comparison=list(map(Path, files.comparison)),
        probes=list(map(Path, files.probes)),
        figures=list(map(Path, files.figures)),
        weights=list(map(Path, files.weights)),
        samples=list(map(Path, files.samples)),
        examples=Path(files.examples),
        sample_keys=snakemake.params.sample_keys,
    )
    write_text(Path(snakemake.output[0]), render_page(inputs, snakemake.params.settings))
