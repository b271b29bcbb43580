"""Block features of every run -> their principal colours over training steps."""

from pathlib import Path

from selftrans.data.sources import open_extracted
from selftrans.evaluation.run_features import RunFeatures
from selftrans.plotting.features import feature_maps
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    runs = {
        run: RunFeatures.load(Path(path))
        for path, run in zip(snakemake.input.features, snakemake.params.runs, strict=True)
    }
    images = open_extracted(Path(snakemake.input.data)).read(next(iter(runs.values())).shown)
    style, params = snakemake.params.style, snakemake.params
    save(
        feature_maps(runs, images, params.labels, params.t, style["width_inches"]),
        snakemake.output,
        style["dpi"],
    )
