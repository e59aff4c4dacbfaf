# `make demo` and `make test` set up what they need; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow bench check links format clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(READY) ## a virtual environment in .venv with everything, at the versions in constraints.txt

$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Isthmus needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "setting up $(VENV) (once; a few hundred megabytes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test]'
	@touch $@

demo: setup ## compile a real model for this processor and compare sentences with it
	@$(VENV)/bin/python examples/demo.py

test: setup ## the tests that take seconds
	@$(RUN) pytest -q -n auto --dist loadscope --no-loadscope-reorder -m 'not slow' --durations=10

test-slow: setup ## the tests that take minutes: the real model, all shapes, fresh environments
	@$(RUN) pytest -q -n auto --dist loadscope --no-loadscope-reorder -m slow --durations=20

bench: setup ## the published figures, against onnxruntime and OpenVINO: about ten minutes of a quiet machine
	@$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,demo,test]'
	@$(VENV)/bin/python benchmarks/encoders.py
	@$(VENV)/bin/python benchmarks/scaling.py

check: setup links ## style, types, import contracts, layout
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) mypy benchmarks examples scripts
	PYTHONPATH=build/types $(VENV)/bin/lint-imports --no-logo --cache-dir build/import-linter
	$(RUN) pytest -q tests/arch

links: setup
	@$(VENV)/bin/python scripts/link_types.py

format: setup ## put the sources into the house format
	$(RUN) ruff check --fix-only .
	$(RUN) ruff format .

clean: ## remove what was built; keeps .venv and fetched data
	find build -mindepth 1 -maxdepth 1 ! -name data -exec rm -rf {} + 2>/dev/null || true
	rm -rf dist
