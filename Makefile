# Every target sets up what it needs, once: .venv is made again only when pyproject.toml or tools/setup.sh change.
#   make demo       the whole loop in miniature, ending in a report    make check      lint, format, types, layers
#   make test       all tests    make test-fast  without the slow ones    make clean      remove caches and build outputs
# PYTHON=python3.12 chooses the interpreter; PROJECT=folder where the demo writes; WORKERS=n how many tests run at once.

VENV := .venv
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
PROJECT ?= demo-project
WORKERS ?= auto
# One thread a worker: more would have the workers wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --maxprocesses=8

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-fast check format docs clean

help:
	@sed -n '2,4s/^# *//p' Makefile

setup: $(READY)
setup-dev: $(READY_DEV)

$(READY): pyproject.toml tools/setup.sh
	tools/setup.sh
	@touch $@

$(READY_DEV): pyproject.toml tools/setup.sh
	tools/setup.sh dev
	@touch $(READY) $@

demo: $(READY)
	$(VENV)/bin/densedpo demo --project $(PROJECT)

test: $(READY_DEV)
	$(PYTEST)

test-fast: $(READY_DEV)
	$(PYTEST) -m "not slow"

check: $(READY_DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(READY_DEV)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(READY)
	$(VENV)/bin/python tools/settings_page.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
