"""What the signals of every run follow -> its principal colours, beside the input."""

from pathlib import Path

import numpy as np

from selftrans.data.sources import open_extracted
from selftrans.plotting.features import guiding_features, principal_colours
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    found, labels = [], snakemake.params.labels
    for path, run in zip(snakemake.input.features, snakemake.params.runs, strict=True):
        with np.load(path, allow_pickle=False) as arrays:
            for number, name in enumerate(arrays["shown_names"].tolist()):
                found.append((run, name, arrays[f"shown_{number}"]))
            shown, noisy = arrays["shown"], arrays["noisy"]
    names = [name for _, name, _ in found]
    columns = {
        name if names.count(name) == 1 else f"{labels[run]}: {name}": tokens
        for run, name, tokens in found
    }
    images = open_extracted(Path(snakemake.input.data)).read(shown)
    style = snakemake.params.style
    figure = guiding_features(
        columns, images, principal_colours(noisy), snakemake.params.t, style["width_inches"]
    )
    save(figure, snakemake.output, style["dpi"])
