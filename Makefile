# Each target brings its own environment into .venv: a fresh machine needs Python 3.11 or newer and a package index. The
# servers that tests and benchmarks run are Debian packages, installed where this user may, and jars from Maven Central.
# `make test PYTHON=python3.13` picks the interpreter of a new environment.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# What is there to be checked; a directory joins when it exists.
CODE   := $(wildcard messaging tests benchmarks examples docs/*.py)

# One environment is shared, and pip does not install twice at a time.
.NOTPARALLEL:
.PHONY: help demo test soak bench lint format docs clean servers build-packages
.DEFAULT_GOAL := help

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed-zmq ## Two servers, a client and a listener over ZeroMQ; one server is killed on the way
	@$(PY) -m examples.demo

# Two at a time, each file in one piece: most tests wait for servers and clocks.
test: $(VENV)/installed-test servers ## All tests but the long runs
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

soak: $(VENV)/installed-test servers ## The long runs: a million calls, a hundred thousand mutated frames
	$(PY) -m pytest -m soak $(ARGS)

bench: $(VENV)/installed-bench servers ## messaging beside its peers; ARGS="--quick", "--only NAME", "--json FILE"
	@$(PY) -m benchmarks $(ARGS)

lint: $(VENV)/installed-lint ## Style, types and the direction of imports
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m mypy $(CODE)
	$(VENV)/bin/lint-imports --no-logo

format: $(VENV)/installed-lint ## Rewrite the code in the project's format
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

docs: $(VENV)/installed-test ## Write the generated pages of docs/ anew
	$(PY) docs/generate.py

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

servers: | $(VENV)/pip
	@$(PYTHON) tests/brokers/packages.py servers
	@$(PY) -m tests.brokers.jars

build-packages:
	@$(PYTHON) tests/brokers/packages.py build

# Dependency groups need pip 25.1; the pip that comes with Python 3.11 does not read them.
$(VENV)/pip: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.13")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/installed-zmq: $(VENV)/pip
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[zmq]'
	@touch $@

# What builds a client that has no wheel comes before pip.
$(VENV)/installed-%: $(VENV)/pip | build-packages
	$(PY) -m pip install --quiet --disable-pip-version-check --editable . --group $*
	@touch $@
