# Each target does its own set-up: a fresh clone needs Python 3.11, 3.12 or 3.13 and nothing else.
#
#   make demo        draw a few scenes, find the things in them by name, print where the labelled pictures are
#   make test        the tests, without those marked slow
#   make test-all    every test
#   make lint        ruff, formatting, mypy, duplicate blocks
#   make setup       make .venv and install the package there, as every target does first
#   make build       install the package again from the working tree, and build the operators of csrc/
#   make bench       measure speed, print the rows
#   make clean       remove what the targets made, .venv included
#
# Variables: PYTHON (interpreter that makes .venv), WORKERS (test processes), PYTEST_ARGS (more arguments for pytest), SEED
# (draws the same scenes again in the demo). pip reads its usual settings: PIP_FIND_LINKS can offer a CPU-only torch.

PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=
SEED ?=

VENV := .venv
BIN := $(VENV)/bin
BUILD_INPUTS := constraints.txt pyproject.toml setup.py build_backend.py $(sort $(wildcard csrc/*.* csrc/*/*.*))
READY := $(VENV)/.ready-$(shell cat $(BUILD_INPUTS) | cksum | cut -d ' ' -f 1)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO := demo_output

.PHONY: demo test test-all lint build bench clean setup
.DEFAULT_GOAL := demo

setup: $(READY)

$(READY):
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  "%s is Python %d.%d, but 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..." % (sys.executable, *v))'
	@echo "Setting up $(VENV): installing the pinned packages, about two minutes on a fast connection"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) -m venv failed: install the venv module of this Python (on Debian and Ubuntu: python3-venv)" >&2; exit 1; }
	@$(INSTALL) setuptools ninja torch
	@$(INSTALL) --no-build-isolation --editable '.[dev]'
	@rm -f $(VENV)/.ready-* && touch $@

demo: $(READY)
	@$(BIN)/glip demo --output $(DEMO) $(if $(SEED),--seed $(SEED))

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-all: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --slow $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/duplicate_blocks.py maskrcnn_benchmark tools benchmarks
	$(BIN)/python .ci/duplicate_blocks.py --lines 10 tests

build: $(READY)
	$(INSTALL) --no-build-isolation --no-deps --editable .

bench: $(READY)
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info maskrcnn_benchmark/_C*.so .pytest_cache .mypy_cache .ruff_cache
