# What to type. `make` alone, or `make help`, lists it.
#
#   PYTHON=/path/to/python3.12   which Python to use (3.10 or newer; else the first good one on the PATH)
#   VENV=.venv-3.12              where its environment goes (default .venv)
#   ARGS="..."                   more words for what is run: make demo ARGS="--port 9000", make test ARGS="-k deflate"
#   JOBS=0                       how many test files run at once, 0: one after the other (default 4: most of them wait)
#
#   GOWS_PURE=1              run plain Python, though the hot modules are compiled
#
# All paths are relative, and every tool is run as `python -m TOOL`, so the checkout may lie under any path, spaces and all.
# A stamp file in the environment says what it already holds; while pyproject.toml stays as it is, nothing is asked of a network.

.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?=
VENV ?= .venv
ARGS ?=
JOBS ?= 4
SPREAD := -n $(JOBS) --dist loadfile --no-loadscope-reorder
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check install

# Hundreds of processes start in a run of the tests, and none of them has to compile all sources again: bytecode is kept
# whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=

# What the hot modules are compiled from; they are compiled again when any of it has changed.
DECLARED := $(shell find gows -name '*.pxd')
HOT := setup.py $(DECLARED) $(DECLARED:.pxd=.py) $(wildcard $(DECLARED:.pxd=.pyx))
COMPILED := $(if $(filter-out 0,$(GOWS_PURE)),,$(VENV)/compiled)

.PHONY: help demo test coverage lint docs conformance conformance-quick load load-short soak attacks fuzz simulate bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/has-gows $(COMPILED) ## the chat page: open the address it prints in two tabs
	@exec $(PY) -m gows demo $(ARGS)

test: $(VENV)/has-test $(COMPILED) ## the test suite
	@$(PY) -m pytest $(SPREAD) $(ARGS)

coverage: $(VENV)/has-test ## the test suite in plain Python, with coverage
	@GOWS_PURE=1 $(PY) -m pytest $(SPREAD) --cov --cov-report=term:skip-covered $(ARGS)

lint: $(VENV)/has-lint ## formatting, lint, types
	@status=0; \
	$(PY) -m ruff format --check . || status=1; \
	$(PY) -m ruff check . || status=1; \
	$(PY) -m mypy || status=1; \
	$(PY) -m pyright -p tests/typing || status=1; \
	exit $$status

docs: $(VENV)/has-docs ## spelling, and the documentation as a site in site/; a broken link fails
	@$(PY) -m codespell_lib *.md *.yml docs examples gows loadtest/*.md
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --clean
	@echo "site/index.html: $$(find site -name '*.html' | wc -l) pages"

conformance: $(VENV)/has-gows $(COMPILED) ## all 517 Autobahn cases against the server, then the client (about 20 minutes)
	@status=0; for end in server client; do $(PY) -m tests.conformance.run_$$end $(ARGS) || status=1; done; exit $$status

conformance-quick: $(VENV)/has-gows $(COMPILED) ## 337 of them: fewer compression cases (about 2 minutes)
	@status=0; for end in server client; do $(PY) -m tests.conformance.run_$$end --quick $(ARGS) || status=1; done; exit $$status

load: $(VENV)/has-load $(COMPILED) ## 20,000 Locust users for a minute; leaves artifacts/load.html
	@$(PY) loadtest/_run.py $(ARGS)

load-short: $(VENV)/has-gows $(COMPILED) ## 2,000 connections echo for a few seconds (needs a C compiler)
	@$(PY) -m tests.load.run $(ARGS)

soak: $(VENV)/has-test $(COMPILED) ## 20 minutes of clients that come and go against coroutines (ARGS="--loop uvloop --minutes 5")
	@$(PY) -m tests.load.soak $(ARGS)

attacks: $(VENV)/has-test $(COMPILED) ## attack a server in every way, and measure what it takes (15 minutes; ARGS=--quick: 4)
	@$(PY) -m tests.attacks $(ARGS)

fuzz: $(VENV)/has-test $(COMPILED) ## mutated bytes against servers of all kinds (ARGS="--seconds 3600 --seed 7")
	@$(PY) -m tests.attacks.fuzz $(ARGS)

simulate: $(VENV)/has-test ## 2,000 runs of several processes in virtual time (2 minutes; ARGS="--seeds 100000")
	@GOWS_PURE=1 $(PY) -m tests.simulation $(ARGS)

bench: $(VENV)/has-bench $(COMPILED) ## every scenario over every server (about an hour; ARGS=--quick: 2 minutes)
	@$(PY) -m bench $(ARGS)

clean: ## remove all that was made, the environment too
	rm -rf .venv .venv-* build dist site artifacts .conformance *.egg-info .coverage .coverage.* \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find gows -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python fit for an environment: new enough, and with venv and pip (Debian keeps them in python3-venv). An environment
# that somebody made by hand is kept when it is fit.
FIT = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))

$(VENV)/made:
	@if ! "$(PY)" -c 'import pip; $(FIT)' >/dev/null 2>&1; then \
	  if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; \
	  else set -- python3 python3.13 python3.12 python3.11 python3.10 python; fi; \
	  python=; \
	  for candidate do \
	    if [ -z "$$python" ] && "$$candidate" -c '$(FIT)' >/dev/null 2>&1; then python=$$candidate; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "gows needs Python 3.10 or newer with its venv module (Debian: apt-get install python3-venv). Looked at:" >&2; \
	    for candidate do echo "  $$candidate: $$("$$candidate" --version 2>&1 | head -n 1)" >&2; done; \
	    echo "Choose one with: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$("$$python" --version)"; \
	  rm -rf "$(VENV)"; \
	  "$$python" -m venv "$(VENV)"; \
	fi
	@touch "$@"

# Cython and setuptools are in the environment itself, so that compiling again asks nothing of a network either.
$(VENV)/can-build: $(VENV)/made pyproject.toml
	@$(PIP) 'setuptools>=77' 'cython>=3.1,<4'
	@touch "$@"

$(VENV)/compiled: $(VENV)/can-build $(HOT)
	@$(PY) setup.py --quiet build_ext --inplace
	@touch "$@"

$(VENV)/has-gows: $(VENV)/can-build
	@echo "installing gows into $(VENV)"
	@$(PIP) --no-build-isolation --editable .
	@touch "$@"

$(VENV)/has-test: $(VENV)/can-build
	@echo "installing gows and what its tests need into $(VENV) (about a minute)"
	@$(PIP) --no-build-isolation --editable '.[test]'
	@touch "$(VENV)/has-gows" "$@"

$(VENV)/has-load: $(VENV)/can-build
	@echo "installing gows and Locust into $(VENV)"
	@$(PIP) --no-build-isolation --editable '.[load]'
	@touch "$(VENV)/has-gows" "$@"

$(VENV)/has-bench: $(VENV)/can-build
	@echo "installing gows and matplotlib into $(VENV)"
	@$(PIP) --no-build-isolation --editable '.[bench]'
	@touch "$(VENV)/has-gows" "$@"

$(VENV)/has-lint: $(VENV)/can-build
	@echo "installing gows, ruff, mypy, pyright and what the tests need into $(VENV) (about a minute)"
	@$(PIP) --no-build-isolation --editable '.[lint]'
	@touch "$(VENV)/has-gows" "$(VENV)/has-test" "$@"

# Nothing of gows is compiled for it: its sources are read, not run.
$(VENV)/has-docs: $(VENV)/can-build
	@echo "installing gows and MkDocs into $(VENV)"
	@GOWS_PURE=1 $(PIP) --no-build-isolation --editable '.[docs]'
	@touch "$(VENV)/has-gows" "$@"
