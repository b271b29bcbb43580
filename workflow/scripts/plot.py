"""The script of every plot rule: runs the one that its params name.

``use rule`` cannot change ``script:``.
"""

import runpy
from pathlib import Path

script = Path(snakemake.scriptdir) / snakemake.params.script["name"]
runpy.run_path(str(script), init_globals={"snakemake": snakemake})
