"""Samples of every run, and real images of their classes -> images side by side."""

from pathlib import Path

from selftrans.data.examples import Examples
from selftrans.data.images import read_image_archive
from selftrans.plotting.samples import sample_grid
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    columns = snakemake.params.columns
    archives = [read_image_archive(Path(path)) for path in snakemake.input.samples]
    images = [images[:columns] for images, _ in archives]
    classes = archives[0][1][:columns]
    style = snakemake.params.style
    examples, params = Examples.load(Path(snakemake.input.examples)), snakemake.params
    names = examples.names(params.class_names)
    figure = sample_grid(
        images,
        classes,
        params.rows,
        params.labels,
        examples,
        names,
        params.sampler,
        style["width_inches"],
    )
    save(figure, snakemake.output, style["dpi"])
