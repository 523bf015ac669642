# Every target sets itself up: the first call makes .venv, later ones start at once.
#   make lab PYTHON=python3.12                     another interpreter (3.11 or newer)
#   make lab PIP_FLAGS='--extra-index-url ADDRESS' another build of torch; see README
#   make test VENV="$CONDA_PREFIX"                 an environment you made yourself
#   make test WORKERS=                             tests one after the other

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
HEADLESS ?=
PRESET ?= quick
SOURCE ?= procedural
PYTEST_FLAGS ?=
WORKERS ?= --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

.PHONY: help lab test lint app reproduce figures gallery bench bench-live constraints

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

lab: $(VENV)/.labkit-lab  ## open JupyterLab (HEADLESS=1: print the address instead)
	$(BIN)/python -m labkit lab $(if $(HEADLESS),--headless)

test: lint  ## everything CI runs: lint, types, unit tests, notebooks
	$(BIN)/python -m pytest $(WORKERS) $(PYTEST_FLAGS)

lint: $(VENV)/.labkit-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

app: $(VENV)/.labkit-app  ## open the labs as pages without code, by Voila (HEADLESS=1 as for lab)
	$(BIN)/python -m labkit app $(if $(HEADLESS),--headless)

reproduce: $(VENV)/.labkit-lab  ## run all notebooks (PRESET=quick SOURCE=procedural)
	$(BIN)/python -m labkit reproduce --preset $(PRESET) --source $(SOURCE)

figures: $(VENV)/.labkit-lab  ## the runs of record: preset full, procedural and real data (hours)
	$(BIN)/python -m labkit reproduce --preset full --source procedural
	$(BIN)/python -m labkit reproduce --preset full --source real

gallery: $(VENV)/.labkit-lab  ## write the labs as single HTML files into figures/gallery
	$(BIN)/python -m labkit gallery

bench: $(VENV)/.labkit-test  ## measure the speed-ups; writes figures/bench
	$(BIN)/python -m labkit.bench

bench-live: $(VENV)/.labkit-test  ## measure the labs in a browser: slider to pixels (10 minutes)
	$(BIN)/python tests/browser/bench_live.py

constraints: $(BIN)/python  ## resolve the newest versions again into constraints.txt
	$(PYTHON) -m venv --clear build/resolve
	build/resolve/bin/python -m pip install -q $(PIP_FLAGS) -e '.[data,cluster,apps,test,dev]'
	sed -n '/^#/p' constraints.txt > build/constraints.txt
	build/resolve/bin/python -m pip freeze --exclude-editable --exclude labkit \
		| sed -E 's/^(torch==[0-9.]+)\+.*/\1/' >> build/constraints.txt
	mv build/constraints.txt constraints.txt

$(VENV)/.labkit-lab: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV): some minutes the first time.'
	$(INSTALL) $(TORCH) -e '.[data]'
	@touch $@

$(VENV)/.labkit-app: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV): some minutes the first time.'
	$(INSTALL) $(TORCH) -e '.[data,apps]'
	@touch $@ $(VENV)/.labkit-lab

$(VENV)/.labkit-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing into $(VENV): some minutes the first time.'
	$(INSTALL) $(TORCH) -e '.[data,cluster,apps,test,dev]'
	@touch $@ $(VENV)/.labkit-app $(VENV)/.labkit-lab

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo 'No $(PYTHON) found. Install Python 3.11 or newer (Debian: apt install python3 python3-venv;'; \
		echo 'macOS: brew install python), or name one: make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "labkit needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Install a newer one"; \
		echo '(macOS: brew install python) and name it: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo '$(PYTHON) cannot make virtual environments. Debian and Ubuntu: apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
