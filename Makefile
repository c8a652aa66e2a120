# Every command of the project, one word each. On a fresh machine each of them first builds .venv.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book html pdf student colab test serve export tidy execute check clean test-all sync lint notebooks bench gpu browser audit

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell $(p) -c \
	'import sys, venv, ensurepip; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
NBVAL = $(or $(shell $(BIN)/python tools/notebooks.py nbval),$(error tools/notebooks.py nbval failed))
NB ?=
# Tests share the processors, file by file, each with one thread; `make test WORKERS=0` runs them one after the other.
WORKERS ?= logical
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=$(WORKERS) --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
PAGES = $(NBVAL) nbs/chapters nbs/howto nbs/api

help:  ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## */make \1\t/p' Makefile | expand -t 16

$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv found. Debian, Ubuntu: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Installing into $(VENV): a few minutes, several gigabytes.'
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

book: pdf  ## build the site from executed notebooks into _build/html, print it, and test both
	@$(MAKE) --no-print-directory _build/.tested

_build/.tested: _build/html/searchindex.js tests/test_site.py tests/test_site_try_it.py
	$(BIN)/pytest tests/test_site.py tests/test_site_try_it.py
	@touch $@

pdf: html  ## print the site into one PDF, which the landing page then offers; it takes a Chromium
	@$(MAKE) --no-print-directory _build/.printed

_build/.printed: _build/html/searchindex.js tools/pdf.py
	$(BIN)/python tools/pdf.py
	@touch $@

html: $(STAMP)
	$(BIN)/python tools/single_file.py
	$(BIN)/python tools/student.py
	$(BIN)/python tools/colab.py
	$(BIN)/python tools/try_it.py
	OMP_NUM_THREADS=1 $(BIN)/jupyter-book build . -W -n --keep-going  # two threads stall beside another busy process

test: sync lint  ## everything but the long tests and the site's: every notebook and tests/, side by side
	$(PYTEST) -m "not long" --ignore-glob="tests/test_site*.py" $(PAGES) tests

student: $(STAMP)  ## write the chapters with stubs in place of solutions into _build/extra/student
	$(BIN)/python tools/student.py

colab: $(STAMP)  ## write the notebooks that run alone, and the package that they install, into _build/extra
	$(BIN)/python tools/colab.py

serve: html  ## build the site and serve it on http://localhost:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

export: $(STAMP)  ## write frcnn_common/ from nbs/api/, and _build/frcnn_common.py
	$(BIN)/nbdev_export
	$(BIN)/python tools/single_file.py

tidy: $(STAMP)  ## normalize the notebooks: what is stored, numbered and kept
	$(BIN)/python tools/notebooks.py tidy

execute: $(STAMP)  ## run every notebook in place, then tidy it (NB=nbs/api/03_boxes.ipynb: only that one)
	$(BIN)/python tools/notebooks.py execute $(NB)

check: sync lint  ## the fast loop: sync, lint, the fast tests
	$(PYTEST) -m "not slow" --ignore-glob="tests/test_site*.py" tests

notebooks: $(STAMP)  ## nbval alone: run every notebook in turn and compare what it stores
	$(BIN)/pytest $(NBVAL) nbs

test-all: sync lint pdf  ## every test there is, the site's and the long ones too
	$(PYTEST) $(PAGES) tests

bench: $(STAMP)  ## time and memory beside torchvision's, written to benchmarks/results.json
	$(BIN)/python benchmarks/speed.py

gpu: $(STAMP)  ## on a machine with a GPU, in at most eight minutes: tests, notebooks, steps and times on it
	$(BIN)/python benchmarks/gpu.py

sync: $(STAMP)  ## notebooks, package and index agree, and are tidy
	$(BIN)/python tools/notebooks.py sync

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check conftest.py tests tools benchmarks

browser: $(STAMP)  ## the Chromium that the site's tests drive, where the machine has none
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| apt-get install -y chromium || $(BIN)/playwright install --with-deps chromium

audit:  ## known vulnerabilities of the pinned versions; PyPI is asked, and an answer that is missing counts as one
	test -x _build/audit/bin/pip-audit || { $(PYTHON) -m venv _build/audit && _build/audit/bin/pip install --quiet pip-audit==2.10.1; }
	_build/audit/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

clean:  ## remove what was built (.venv stays)
	rm -rf _build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
