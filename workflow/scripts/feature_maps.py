"""Block features of every run -> their principal colours over training steps."""

from pathlib import Path

import numpy as np

from selftrans.data.sources import open_extracted
from selftrans.plotting.features import feature_maps
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    runs = {}
    for path, run in zip(snakemake.input.features, snakemake.params.runs, strict=True):
        with np.load(path, allow_pickle=False) as arrays:
            runs[run] = {name: arrays[name] for name in ("maps", "steps", "shown", "shown_blocks")}
    images = open_extracted(Path(snakemake.input.data)).read(next(iter(runs.values()))["shown"])
    style, params = snakemake.params.style, snakemake.params
    save(
        feature_maps(runs, images, params.labels, params.t, style["width_inches"]),
        snakemake.output,
        style["dpi"],
    )
