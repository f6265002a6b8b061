# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# More than one thread in BLAS only gets in the way of two processes on two cores.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test lint setup lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml tools/find_python.sh
	@python="$$(tools/find_python.sh)" && { test -x $(BIN)/python || $$python -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/surgical-twin demo --out demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two processes side by side, a file of tests in one of them: what a file's tests share is made once.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lock: setup
	$(BIN)/python tools/lock.py

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
