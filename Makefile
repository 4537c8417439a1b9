# `make demo` and `make test` create the environment they need; nothing else has to be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check env clean
demo: env
	$(BIN)/errata demo

test: env check
	$(BIN)/pytest -n auto --dist worksteal

check: env
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

env: $(VENV)/.made
$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist
