"""What the alignment losses of every run follow -> principal colours, beside the input."""

from pathlib import Path

from selftrans.data.class_names import readable_names
from selftrans.data.sources import open_extracted
from selftrans.evaluation.run_features import RunFeatures
from selftrans.plotting.features import guiding_features, principal_colours
from selftrans.plotting.style import save
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    labels = snakemake.params.labels
    runs = {
        run: RunFeatures.load(Path(path))
        for path, run in zip(snakemake.input.features, snakemake.params.runs, strict=True)
    }
    names = [name for features in runs.values() for name in features.shown_guiding]
    columns = {
        name if names.count(name) == 1 else f"{labels[run]}: {name}": tokens
        for run, features in runs.items()
        for name, tokens in features.shown_guiding.items()
    }
    *_, last = runs.values()
    source = open_extracted(Path(snakemake.input.data))
    images, shown_classes = source.read(last.shown), source.labels[last.shown]
    names = snakemake.params.class_names or readable_names(source.class_names)
    style = snakemake.params.style
    figure = guiding_features(
        columns,
        images,
        principal_colours(last.noisy),
        snakemake.params.t,
        [names[label] for label in shown_classes],
        style["width_inches"],
    )
    save(figure, snakemake.output, style["dpi"])
