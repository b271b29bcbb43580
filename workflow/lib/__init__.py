"""The Python behind the rules: typed, tested without Snakemake. It alone knows where results lie.

Import names from its modules (`from workflow.lib.study import Study`): a plain `import workflow`
would hide Snakemake's global of that name.
"""
