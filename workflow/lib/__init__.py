"""The Python behind the rules: typed, tested without Snakemake, and the only code that knows `results/`.

Import names from its modules (`from workflow.lib.study import Study`): a plain `import workflow` would hide
Snakemake's own global of that name.
"""
