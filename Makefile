# Everything a person does here, one target each; `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
TARGET ?= local
SEED ?= random

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: requirements/bootstrap.lock requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "error: $(PYTHON) is older than 3.11 or has no venv module"; echo "hint: apt-get install python3-venv"; exit 1; } >&2
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements/bootstrap.lock requirements/dev.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	touch $@

$(VENV)/.fetched: $(VENV)/.installed framework/shoal/pool/triton.lock triton-repo/magika/source.yaml requirements/cloudevents2.lock
	$(BIN)/python -m shoal.pool.environment
	$(BIN)/python -m shoal.models.fetch triton-repo
	touch $@

.PHONY: setup
setup: $(VENV)/.fetched ## Install locked dependencies, the inference server and the models (the only step that needs the package index)

.PHONY: demo
demo: setup ## Show all of it on this machine, with the real inference server; under three minutes
	$(BIN)/python tests/e2e/demo.py

.PHONY: up
up: setup ## Start the local platform (gateway, broker, pool) and keep it
	$(BIN)/shoal up

.PHONY: down
down: ## End the local platform
	$(BIN)/shoal down

.PHONY: deploy
deploy: setup ## Deploy a function: make deploy FUNCTION=functions/filetype
	@test -n "$(FUNCTION)" || { echo "error: FUNCTION is not set"; echo "hint: make deploy FUNCTION=functions/filetype"; exit 2; } >&2
	$(BIN)/shoal deploy $(FUNCTION)

.PHONY: test
test: setup ## Run every test that needs no cluster, in random order
	$(BIN)/python -m pytest -n 2 -p randomly -p no:cacheprovider -m "not cluster and not perf" $(ARGS)

.PHONY: test-cluster
test-cluster: setup ## Run the tests that need a cluster with Knative (KUBECONFIG; docs/cluster.md)
	$(BIN)/python -m pytest -n 2 -p randomly -p no:cacheprovider -m cluster $(ARGS)

.PHONY: check
check: setup ## Format, lint, types, import contracts
	$(BIN)/ruff format --check framework tests functions
	$(BIN)/ruff check framework tests functions
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: format
format: setup ## Format and fix what can be fixed
	$(BIN)/ruff format framework tests functions
	$(BIN)/ruff check --fix framework tests functions

.PHONY: wheel-test
wheel-test: setup ## Build the wheel, install it alone in a new environment, serve a function from it
	bash tests/e2e/wheel.sh

.PHONY: bench
bench: setup ## Measure against the alternatives, interleaved, into bench/results
	PYTHONPATH=tests $(BIN)/python tests/perf/bench.py $(ARGS)

.PHONY: lock
lock: $(VENV)/.installed ## Resolve the dependencies again (after a change in pyproject.toml)
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  requirements/bootstrap.in -o requirements/bootstrap.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  --all-extras --group dev pyproject.toml -o requirements/dev.lock
	$(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-emit-index-url --no-header --python-version 3.11 \
	  -c requirements/dev.lock pyproject.toml -o framework/shoal/image/runtime.lock

.PHONY: clean
clean: ## Remove what the build made here (not the cache in ~/.cache/shoal)
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
