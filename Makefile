# make demo   set everything up and run the embedded experiment: figures in results/digits/figures/
# make test   set everything up, run the static checks and every test, in two processes (WORKERS=2);
#             those on a SLURM of their own (make test-cluster) where one can be started
# make test-fast   the tests that take milliseconds, in one process
# make gpu-check   what must hold on this machine's GPUs, and what they reach: results/gpu-check.md
# make check       format, lint, types, workflow files, import contracts, the documentation
# make test-lowest   the fast tests in an environment of the lowest versions of pyproject.toml
# make docs        the documentation: build/site/index.html
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
WORKERS ?= 2

bin := $(abspath $(VENV))/bin
run := PATH="$(bin):$$PATH"

.PHONY: demo test test-fast test-lowest gpu-check check docs mutations test-cluster golden bench \
  check-adm notebooks schema format clean

demo: $(VENV)/ready
	$(run) snakemake --cores $(CORES)

test: check
	$(run) python -m pytest -rs -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/ready
	$(run) OMP_NUM_THREADS=1 python -m pytest -q --strict-tiers \
	  -m "not slow and not workflow and not cluster"

# At most 20 minutes on one card; in miniature where there is none.
# Some groups of checks: make gpu-check ONLY="--only numerics --only measures"
gpu-check: $(VENV)/ready
	$(run) selftrans check-gpu $(ONLY)

# The fast tests in an environment of its own, with the lowest versions that pyproject.toml allows.
test-lowest:
	rm -rf $(VENV)-lowest && $(PYTHON) -m venv $(VENV)-lowest
	sed -nE 's/.*"([A-Za-z0-9_-]+)>=([0-9.]+)".*/\1==\2/p' pyproject.toml | grep -v setuptools \
	  > $(VENV)-lowest/lowest.txt
	$(VENV)-lowest/bin/python -m pip install --quiet -c $(VENV)-lowest/lowest.txt \
	  -e '.[docs,hub,notebooks,test,text,wandb]'
	PATH="$(abspath $(VENV)-lowest)/bin:$$PATH" OMP_NUM_THREADS=1 python -m pytest -q \
	  -m "not slow and not workflow and not cluster" \
	  --deselect tests/test_project.py::test_what_is_installed_is_what_is_pinned

# Every planted fault must fail a fast test. See tests/mutations/__init__.py.
mutations: $(VENV)/ready
	$(run) python -m pytest -q tests/mutations

check: $(VENV)/ready
	$(run) ruff format --check .
	$(run) ruff check .
	$(run) mypy
	$(run) snakefmt --check Snakefile workflow
	$(run) snakemake --lint
	$(run) lint-imports
	$(build-docs)

# Every link must lead somewhere. (With --quiet, MkDocs would not count warnings.)
build-docs = $(run) NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

docs: $(VENV)/ready
	$(build-docs)

# The workflow on a real SLURM, started on this machine and stopped again (root; Debian's slurm-wlm
# and munge).
test-cluster: $(VENV)/ready
	$(run) python -m pytest tests/cluster -rs

# The golden numbers, computed anew and written in place: says which have changed.
# See tests/golden/README.md.
golden: $(VENV)/ready
	$(run) OMP_NUM_THREADS=1 python -m tests.golden

# Ratios against stated baselines: a table, and results/benchmarks.json.
# Some of them: make bench ONLY="stage_2 batches"
bench: $(VENV)/ready
	$(run) OMP_NUM_THREADS=1 python -m benchmarks $(ONLY)

# The published evaluation of ADM-G+U, with the real weights:
# make check-adm WEIGHTS=... SAMPLES=... [REFERENCE=...]
check-adm: $(VENV)/ready
	$(run) python -m benchmarks.check_adm "$(SAMPLES)" $(if $(WEIGHTS),--weights "$(WEIGHTS)") \
	  $(if $(REFERENCE),--reference "$(REFERENCE)")

# Execute the notebooks on the results of the demo and store their outputs.
# Some of them: make notebooks ONLY="first-steps"
notebooks: demo
	$(run) OMP_NUM_THREADS=1 python -m notebooks.execute $(ONLY)

# The JSON schemas that editors check experiment files by.
schema: $(VENV)/ready
	$(run) python -m selftrans.config.schema

format: $(VENV)/ready
	$(run) ruff format .
	$(run) ruff check --fix .
	$(run) snakefmt Snakefile workflow

clean:
	rm -rf $(VENV) $(VENV)-lowest build *.egg-info

$(VENV)/ready: pins.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --disable-pip-version-check -c pins.txt -e '.[dev]'
	touch $@
