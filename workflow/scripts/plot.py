"""The script of every plot rule: runs the script beside it that bears the rule's name."""

import runpy
from pathlib import Path

SHARED = {"grid": "convergence"}  # a grid's figure is a convergence figure of the grid's runs

figure = snakemake.rule.removeprefix("plot_")
script = Path(snakemake.scriptdir) / f"{SHARED.get(figure, figure)}.py"
runpy.run_path(str(script), init_globals={"snakemake": snakemake})
