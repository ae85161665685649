# Everything runs in .venv, made from pyproject.toml with the versions that constraints.txt pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := runs/demo
DETECTION := runs/demo-detection

.PHONY: help install docs traceability demo demo-detection test test-all test-cuda check format bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      train LeNet-5 on real handwritten digits and show what it learnt (about a minute)"
	@echo "make demo-detection   train a network to find and outline digits on photographs (a few minutes)"
	@echo "make test      the test suite (minutes); make test-all adds the slow tests"
	@echo "make test-cuda the tests that a GPU has to pass as well (minutes)"
	@echo "make check     lint, format and types;  make format rewrites the files"
	@echo "make docs      the handbook as pages in build/docs, every script in it run anew (minutes, no network)"
	@echo "make traceability   write docs/traceability.md anew, from the marks in sources and tests"
	@echo "make bench     time striate against PyTorch on this machine"
	@echo "make clean     remove the environment, caches and demo runs"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "striate needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	@rm -rf $(RUN)
	$(BIN)/striate train lenet5 --data digits --out $(RUN)
	@echo "Next:"
	@echo "  $(BIN)/striate predict $(RUN) $(RUN)/samples/*.png"
	@echo "  $(BIN)/striate explain $$(ls $(RUN)/samples/*.png | head -n 1) --model $(RUN)"
	@echo "  $(BIN)/striate studio"
	@echo "  source $(BIN)/activate && striate --help"

demo-detection: install
	@rm -rf $(DETECTION)
	$(BIN)/striate train condinst_small --data scenes:128,6000,60 --epochs 1 --batch-size 8 --out $(DETECTION)
	@echo "What it found on held-out scenes: $(DETECTION)/predictions.png. Next:"
	@echo "  $(BIN)/striate predict $(DETECTION) $(DETECTION)/samples --out $(DETECTION)/found"
	@echo "  $(BIN)/striate evaluate $(DETECTION) --out $(DETECTION)/report"

test: install
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-all: install
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'slow or not slow'

test-cuda: install
	$(BIN)/python -m pytest -q -m cuda tests/cuda

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "Open build/docs/index.html"

traceability: install
	$(BIN)/python docs/handbook/traceability.py

bench: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) runs build .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
