"""Samples of every run -> images side by side."""

import numpy as np

from selftrans.plotting.samples import sample_grid
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    columns = snakemake.params.columns
    archives = [np.load(path, allow_pickle=False) for path in snakemake.input.samples]
    images = [archive["arr_0"][:columns] for archive in archives]
    classes = archives[0]["arr_1"][:columns]
    style = snakemake.params.style
    rows, labels = snakemake.params.rows, snakemake.params.labels
    save(
        sample_grid(images, classes, rows, labels, style["width_inches"]),
        snakemake.output,
        style["dpi"],
    )
