"""The Snakemake workflow: rules, scripts, profiles, and the typed library behind the rules."""
