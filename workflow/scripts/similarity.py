"""Block features of every run -> how alike its blocks are."""

from pathlib import Path

from selftrans.evaluation.probes import cka_matrix
from selftrans.evaluation.run_features import RunFeatures
from selftrans.plotting.features import similarity
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    matrices, t = {}, snakemake.params.t
    for path, run in zip(snakemake.input.features, snakemake.params.runs, strict=True):
        matrices[run] = cka_matrix(list(RunFeatures.load(Path(path)).at_time(t)))
    style = snakemake.params.style
    save(
        similarity(matrices, snakemake.params.labels, t, style["width_inches"]),
        snakemake.output,
        style["dpi"],
    )
