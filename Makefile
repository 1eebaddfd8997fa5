# `make demo` and `make test` are all that a newcomer needs; both install first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export RAY_USAGE_STATS_ENABLED := 0
# Tests without Ray use one core each; those with Ray use all cores by themselves.
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo lint format unit test test-slow test-faults test-gpu bench clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## Create .venv and install distgen, pinned by infra/constraints.txt

$(STAMP): pyproject.toml infra/constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"distgen needs Python 3.11 to 3.13 and {sys.executable} is {v[0]}.{v[1]}; try: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv $(VENV)
	# torch first and by its exact version: a range could bring a build for another device.
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep -E '^torch==' infra/constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint infra/constraints.txt --editable '.[dev,optuna,mlflow]'
	@touch $(STAMP)

demo: $(STAMP) ## Train, serve and query a generator of digits in four minutes
	$(BIN)/distgen demo

lint: $(STAMP) ## Formatter, linter, types, import rules
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache > .lint-imports.log || (cat .lint-imports.log; exit 1)
	@rm -f .lint-imports.log

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

unit: $(STAMP) ## The tests that need no Ray; those of pages need chromium
	$(BIN)/pytest $(SIDE_BY_SIDE) tests/unit tests/stores
	# By themselves: the browser driver keeps an event loop running, beside which no other may.
	$(BIN)/pytest $(SIDE_BY_SIDE) tests/browser

test: lint unit ## Everything that must hold: lint, unit tests, tests on a local Ray cluster
	$(BIN)/pytest tests/ray

test-slow: $(STAMP) ## Tests that take about a minute each
	$(BIN)/pytest -m slow

test-faults: $(STAMP) ## What runs survive: clusters are ended, hung and watched for minutes
	$(BIN)/pytest -m faults

test-gpu: $(STAMP) ## Tests that need a CUDA device; they need no Ray
	$(BIN)/pytest -m gpu tests/gpu

# Once only: what is there stays, whatever is newer.
shards/%/train/manifest.json: | $(STAMP)
	$(BIN)/distgen data build $* shards/$*

bench: $(STAMP) shards/fashion-mnist/train/manifest.json ## Ratios to hand-written loops, measured on this machine
	$(BIN)/distgen bench data --json
	$(BIN)/distgen bench train --json
	$(BIN)/distgen bench serve --json

clean: ## Remove the environment and every cache; runs and shards stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
