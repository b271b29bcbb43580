"""The experiment with every default filled in, beside its results."""

from pathlib import Path

import yaml

from selftrans.runtime.files import write_text
from selftrans.runtime.logs import logged_to

with logged_to(snakemake.log[0]):
    write_text(Path(snakemake.output[0]), yaml.safe_dump(snakemake.params.experiment, sort_keys=False))
