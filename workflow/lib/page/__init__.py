"""The page of an experiment: ``results/EXPERIMENT/index.html``, one file that needs no network."""
