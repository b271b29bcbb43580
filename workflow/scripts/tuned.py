"""metrics.csv -> the best trial of every arm, sealed."""

from pathlib import Path

import yaml

from selftrans.config.tuning import Tuned
from selftrans.evaluation.comparison import curves_of
from selftrans.evaluation.tables import read_metrics
from selftrans.evaluation.tuning import at_an_edge, best_trials
from selftrans.runtime.files import write_text
from selftrans.runtime.logs import LOG, logged_to
from selftrans.runtime.seal import sealed

HEADER = """\
# What `snakemake tune` found best for each arm, by FID. `tuned: {name}` in another experiment reads
# it. Commit it before those seeds are trained. An edited file is refused; who edits the seal, too,
# is found by the history of the repository alone.
"""

with logged_to(snakemake.log[0]):
    params, name = snakemake.params, snakemake.wildcards.experiment
    fids = curves_of(read_metrics(snakemake.input.table, [params.sampler]), "fid")
    tuned = Tuned(
        experiment=name,
        seeds=params.seeds,
        trials=len(next(iter(params.arms.values()))),
        steps=params.steps,
        runs=best_trials(
            fids, params.arms, params.seeds, params.steps, params.values, params.definitions
        ),
    )
    for line in at_an_edge(tuned.runs, params.values):
        LOG.warning("%s", line)
    content = yaml.safe_dump(sealed(tuned.model_dump(mode="json")), sort_keys=False)
    write_text(Path(snakemake.output[0]), HEADER.format(name=name) + content)
