# The front door. `make demo` and `make test` do all their own set-up on a fresh Linux machine.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := .venv/bin/python
# Node.js and npm come with the Python environment, so that all have the same.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
LAB := scripts/lab
# Two workers fit two cores; the lab gives each its own hosts.
WORKERS ?= 2

.PHONY: help setup demo test test-slow lint bench contracts lock clean

help: ## Show what there is to make
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install everything that the project needs, once
	@scripts/setup.sh

demo: setup ## Show the whole thing work on this machine (KEEP=1 leaves it running)
	@$(PYTHON) scripts/demo.py

test: setup lint ## Run all tests; the last line counts them
	@WORKERS=$(WORKERS) $(PYTHON) scripts/test.py $(ARGS)

test-slow: setup ## Long fuzzing, soaks and the big model runs
	@$(LAB) $(PYTHON) -m pytest -m slow --ignore=tests/e2e $(ARGS)

lint: setup ## Check style, types and layers
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy
	@PYTHONPATH=src .venv/bin/lint-imports --no-cache > .stamps/layers.log || { cat .stamps/layers.log; exit 1; }

bench: setup ## Measure, against floors taken in the same run; writes bench/results.json
	@rm -f bench/results.json
	@$(LAB) $(PYTHON) -m bench
	@if docker version >/dev/null 2>&1; then $(PYTHON) -m bench.containers; \
		else echo "no Docker engine answers: containers are not measured"; fi

contracts: setup ## Compile the contract into the Python package and test it
	@node contracts/build.mjs
	@cd contracts && node_modules/.bin/forge test

lock: setup ## Renew the hashed requirements from pyproject.toml
	@.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 pyproject.toml -o requirements/runtime.txt
	@.venv/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 pyproject.toml --group dev -o requirements/dev.txt
	@for group in build node; do .venv/bin/uv pip compile --quiet --universal --generate-hashes \
		--no-annotate --no-header --python-version 3.11 --group $$group -o requirements/$$group.txt; done

clean: ## Remove what set-up and tests made
	@rm -rf .venv .stamps contracts/node_modules contracts/out contracts/cache
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
