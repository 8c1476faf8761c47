# `make demo` and `make test` work on a fresh machine that has Python 3.11+ and make. Everything goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := $(VENV)/.installed-dev
# Two runs may not install into one environment at a time, and user code must not inherit a foreign one.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start some fifty Python programs: each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

# What runs a second time, on PostgreSQL and an S3 bucket (which the tests start).
ON_CLOUD_STORES := tests/versioning tests/jobs tests/registry tests/secrets tests/access tests/training \
	tests/pipelines/test_jobs.py tests/api/test_data.py

.PHONY: help demo check test nightly bench lock docs clean

help:
	@echo "make demo    install, then run the whole loop: commit pictures, get a live model that learns more"
	@echo "make check   format, lint, types, layers and the fast tests (about a minute)"
	@echo "make test    everything that CI runs"
	@echo "make nightly the state machines, for thousands of steps, and every point at which something can break"
	@echo "make bench   measure, and print the tables of docs/benchmarks.md"
	@echo "make docs    write the generated reference pages again"
	@echo "make lock    pin the newest releases that the ranges in pyproject.toml allow"

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(TOOLS): requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP) $@

demo: $(STAMP)
	@$(BIN)/trunkline demo

check: $(TOOLS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest -m "not slow and not machine" --numprocesses 2 --dist loadfile

test: check
	HYPOTHESIS_PROFILE=ci $(BIN)/pytest -m "not nightly and (slow or hypothesis or machine)"
	$(BIN)/pytest -m "not slow" --stores cloud --numprocesses 2 --dist loadfile $(ON_CLOUD_STORES)

nightly: $(TOOLS)
	HYPOTHESIS_PROFILE=nightly $(BIN)/pytest -m machine --timeout=0
	$(BIN)/pytest -m nightly
	HYPOTHESIS_PROFILE=ci $(BIN)/pytest -m machine --timeout=0 --stores cloud

bench: $(TOOLS)
	$(BIN)/python bench/run.py

docs: $(TOOLS)
	$(BIN)/python tools/make_reference.py

lock:
	sh tools/lock.sh

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
