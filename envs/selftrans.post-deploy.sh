# Run by Snakemake from the repository once the environment exists: scripts import the package, too.
# What its packages use gets the versions of pins.txt, like they themselves.
pip install -c pins.txt -e '.[hub,text,wandb]'
