# Run by Snakemake from the repository once the environment exists: scripts import the package, too.
pip install --no-deps -e .
