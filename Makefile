# Everything from a fresh clone: `make demo`, `make test`. Needs Python 3.11+ and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGES := diffusion features bench examples tests

.PHONY: help demo test test-all lint format bench install clean

help:
	@echo "make demo      train, index and re-rank digits; writes demo/report.html and demo/objects.html"
	@echo "make test      the tests (minutes)"
	@echo "make test-all  the slow tests too"
	@echo "make lint      ruff, its formatter as a check, mypy"
	@echo "make format    let ruff rewrite"
	@echo "make bench     quality and speed tables"

install: $(VENV)/installed

# PIP_CONSTRAINT rather than -c: it holds for the build environment too.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/diffusion demo

test: install
	$(BIN)/python -m pytest

test-all: install
	$(BIN)/python -m pytest -m ''

lint: install
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix $(PACKAGES)
	$(BIN)/ruff format $(PACKAGES)

bench: install
	$(BIN)/python -m bench quality
	$(BIN)/python -m bench speed

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
