# Two commands from a fresh clone: `make onboard` and `make test`. Nothing but Python 3.11, git and make is needed.
SHELL := /bin/bash
VENV := .venv
PYTHON ?= python3.11
READY := $(VENV)/.ready
# What pages are tested in; `make onboard` needs none.
BROWSER := $(VENV)/chromium/ready.json
# `amoeba onboard smollm2-135m` goes on to every target there is.
TARGETS ?= x86_avx512 x86_avx2 android_arm64

# Each runs a file of tests at a time and takes up to 6 GB.
WORKERS ?= 2

.PHONY: onboard test lint types imports unit clean help

help:
	@echo "make onboard   the main job on the embedded base: fine-tune once, publish an artifact for $(TARGETS)"
	@echo "make test      every check: ruff, mypy, import-linter, pytest"
	@echo "make clean     remove the environment; .amoeba and artifacts stay"

onboard: $(READY)
	@$(VENV)/bin/amoeba onboard smollm2-135m $(TARGETS:%=--target %)

test: lint types imports unit

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(READY)
	$(VENV)/bin/mypy

imports: $(READY)
	$(VENV)/bin/lint-imports

unit: $(READY) $(BROWSER)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -q --numprocesses=$(WORKERS) --dist=loadfile

$(READY): pyproject.toml constraints.txt scripts/environment
	@PYTHON="$(PYTHON)" scripts/environment $(VENV)
	@touch $@

$(BROWSER): scripts/chromium.py $(READY)
	$(VENV)/bin/python scripts/chromium.py $(VENV)/chromium
	@touch $@

clean:
	rm -rf $(VENV)
