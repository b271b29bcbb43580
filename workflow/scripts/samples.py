"""Samples of every run -> images side by side."""

from pathlib import Path

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
    rows, labels = snakemake.params.rows, snakemake.params.labels
    save(
        sample_grid(images, classes, rows, labels, style["width_inches"]),
        snakemake.output,
        style["dpi"],
    )
