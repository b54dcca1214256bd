# Everything from a fresh clone: `make demo`, `make test`. Needs Python 3.11+ and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FAULTS_SECONDS ?= 600
PACKAGES := diffusion features bench examples tests docs

.PHONY: help demo test slow test-all faults lint format bench package audit browser docs links install clean

help:
	@echo "make demo      train, index and re-rank digits; writes report, search and objects.html in demo/"
	@echo "make test      the tests (minutes)"
	@echo "make slow      the slow tests alone"
	@echo "make test-all  the tests, the slow tests and a few cases of every campaign"
	@echo "make faults    ten minutes of kills, full disks, damaged files and random calls"
	@echo "make lint      ruff, its formatter as a check, mypy"
	@echo "make format    let ruff rewrite"
	@echo "make bench     quality and speed tables"
	@echo "make docs      build the documentation into docs/_build/html; warnings are errors"
	@echo "make links     ask every address on the pages of the documentation; needs the network"
	@echo "make package   build the wheel, install it into an empty environment and try it"
	@echo "make browser   install Debian's Chromium, in which the tests open the page; needs root"
	@echo "make audit     look for known vulnerabilities of the pinned versions"

install: $(VENV)/installed

# First the pinned files, each by its hash, and among them what builds this package. Then the package
# itself, which has no hash. Where other systems need more than is pinned, the second step adds it.
PIP := python -m pip --quiet --disable-pip-version-check
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) install --require-hashes --no-deps --requirement constraints.txt
	$(BIN)/$(PIP) install --no-build-isolation --editable '.[dev]'
	$(BIN)/$(PIP) check
	touch $@

demo: install
	$(BIN)/features demo

# A file of tests to a process: processes that begin alike compile the same loops twice.
test: install
	$(BIN)/python -m pytest -n auto --dist loadfile

# What `make test` leaves out, for CI.
slow: install
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

test-all: install
	$(BIN)/python -m pytest -n auto --dist loadfile -m ''

# Prints the table that docs/trust.md shows. A failure names the line that repeats it.
faults: install
	$(BIN)/python -m pytest -n auto --dist worksteal -m faults tests/faults \
		--faults-seconds $(FAULTS_SECONDS) --faults-report faults.json
	$(BIN)/python -m tests.faults faults.json

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

# The examples are run, so it takes minutes. Names in api/ and pages of examples are made anew, so that
# none is left of what has been renamed.
docs: install
	rm -rf docs/_build docs/api/generated docs/api/examples docs/examples docs/concepts
	$(BIN)/python -m sphinx -W --keep-going --builder html docs docs/_build/html

# Asks every address on the pages, which needs the network; links within the site are checked by `docs`.
links: install
	$(BIN)/python -m sphinx -D plot_gallery=0 --builder linkcheck docs docs/_build/linkcheck

# The wheel comes from the sdist, so that both are tried. Nothing of the extras is installed: the
# engine has to work without torch.
package: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv "$$folder/venv" && \
	sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' constraints.txt > "$$folder/pins.txt" && \
	"$$folder/venv/bin/"$(PIP) install --constraint "$$folder/pins.txt" dist/*.whl && \
	cp tests/support/installed.py "$$folder" && cd "$$folder" && venv/bin/python installed.py && \
	venv/bin/diffusion --version

# Without a browser, the tests of the page are skipped, and say so.
browser:
	command -v chromium > /dev/null || (apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium > /dev/null)

# Asks the advisories of PyPI about every pinned version, so it needs the network.
audit: install
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv "$$folder/venv" && "$$folder/venv/bin/"$(PIP) install pip-audit && \
	"$$folder/venv/bin/pip-audit" --strict --require-hashes --disable-pip --requirement constraints.txt

clean:
	rm -rf docs/_build docs/api/generated docs/api/examples docs/examples docs/concepts
	rm -rf $(VENV) demo dist faults.json .pytest_cache .mypy_cache .ruff_cache .hypothesis
