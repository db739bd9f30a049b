# What a developer or a machine does here. `make` alone lists it.
# PYTHON=/path/to/python chooses the interpreter; ARGS="..." is handed on to the tool.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types wheel-test bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## create .venv and install everything in it, as pinned in constraints.txt

# Installed again whenever what it is made from changes.
$(INSTALLED): pyproject.toml constraints.txt .ci/venv
	@.ci/venv $(VENV)
	@touch $@

demo: $(INSTALLED) ## train, report and predict on real handwritten digits: about a minute
	@$(BIN)/fieldmark demo $(ARGS)

test: $(INSTALLED) ## run the tests (ARGS="-k recipe" for some of them)
	@$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## style, format and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

types: $(INSTALLED) ## the type checker
	@$(BIN)/mypy

wheel-test: $(INSTALLED) ## build the wheel, install it in a clean environment, run the demo from it
	@.ci/wheel-test

bench: $(INSTALLED) ## which measurements there are, and how to run them
	@$(BIN)/python .ci/list_benchmarks.py

clean: ## remove built things and caches; .venv and runs/ stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +
