"""Block features of every run -> how alike its blocks are."""

import numpy as np

from selftrans.evaluation.probes import cka_matrix
from selftrans.plotting.features import similarity
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    matrices, t = {}, snakemake.params.t
    for path, run in zip(snakemake.input.features, snakemake.params.runs, strict=True):
        with np.load(path, allow_pickle=False) as arrays:
            blocks = arrays["pooled"][arrays["times"].tolist().index(t)]
        matrices[run] = cka_matrix(list(blocks))
    style = snakemake.params.style
    save(
        similarity(matrices, snakemake.params.labels, t, style["width_inches"]),
        snakemake.output,
        style["dpi"],
    )
