# `make run` and `make test` need Python 3.11-3.13, make and a package index; nothing else.
VENV ?= .venv
PY := $(VENV)/bin/python
ARGS ?=
# The first interpreter that answers and is of a supported version.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
# Two test processes on two cores: one thread each, or they get in each other's way.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(PY) -m pytest -n 2 --dist worksteal

.PHONY: help run test test-long check bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "llmexp needs Python 3.11, 3.12 or 3.13 on the PATH (or make PYTHON=/path/to/python)"; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(VENV)/.installed  ## one experiment; make run ARGS="strategy=qlora seed=1" passes overrides
	@$(PY) run.py $(ARGS)

test: $(VENV)/.installed  ## the tests that everybody runs
	$(PYTEST) -m "not long" $(ARGS)

test-long: $(VENV)/.installed  ## the long ones
	$(PYTEST) -m long $(ARGS)

check: $(VENV)/.installed  ## lint, format, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.installed  ## ours against its peers, some two hours; make bench ARGS="--only P9 --pairs 3"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(PY) scripts/bench.py $(ARGS)

clean:  ## remove the environment
	rm -rf $(VENV)
