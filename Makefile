# What to type. `make` alone, or `make help`, lists it.
#
#   PYTHON=/path/to/python3.12   which Python to use (3.10 or newer; else the first good one on the PATH)
#   VENV=.venv-3.12              where its environment goes (default .venv)
#   ARGS="..."                   more words for what is run: make demo ARGS="--port 9000", make test ARGS="-k deflate"
#
# All paths are relative, and every tool is run as `python -m TOOL`, so the checkout may lie under any path, spaces and all.
# A stamp file in the environment says what it already holds; while pyproject.toml stays as it is, nothing is asked of a network.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?=
VENV ?= .venv
ARGS ?=
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check install

.PHONY: help demo test lint conformance conformance-quick load clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/has-gows ## the chat page: open the address it prints in two tabs
	@exec $(PY) -m gows demo $(ARGS)

test: $(VENV)/has-test ## the test suite, with coverage
	@$(PY) -m pytest --cov --cov-report=term:skip-covered $(ARGS)

lint: $(VENV)/has-lint ## formatting, lint, types
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

conformance: $(VENV)/has-gows ## all 517 Autobahn cases against the server, then the client (about 20 minutes)
	@$(PY) -m tests.conformance.run_server $(ARGS)
	@$(PY) -m tests.conformance.run_client $(ARGS)

conformance-quick: $(VENV)/has-gows ## 337 of them: fewer compression cases (about 2 minutes)
	@$(PY) -m tests.conformance.run_server --quick $(ARGS)
	@$(PY) -m tests.conformance.run_client --quick $(ARGS)

load: $(VENV)/has-gows ## 2,000 connections echo for a few seconds (needs a C compiler)
	@$(PY) -m tests.load.run $(ARGS)

clean: ## remove all that was made, the environment too
	rm -rf .venv .venv-* build dist artifacts .conformance *.egg-info .coverage .coverage.* \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python fit for an environment: new enough, and with venv and pip (Debian keeps them in python3-venv).
$(VENV)/made:
	@fit='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))'; \
	if [ -n "$(PYTHON)" ]; then candidates=("$(PYTHON)"); \
	else candidates=(python3 python3.13 python3.12 python3.11 python3.10 python); fi; \
	python=; \
	for candidate in "$${candidates[@]}"; do \
	  if "$$candidate" -c "$$fit" >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "gows needs Python 3.10 or newer with its venv module (Debian: apt-get install python3-venv). Looked at:" >&2; \
	  for candidate in "$${candidates[@]}"; do \
	    echo "  $$candidate: $$("$$candidate" --version 2>&1 || true)" >&2; \
	  done; \
	  echo "Choose one with: make PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$python" --version)"; \
	rm -rf "$(VENV)"; \
	"$$python" -m venv "$(VENV)"; \
	touch "$@"

$(VENV)/has-gows: $(VENV)/made pyproject.toml
	@echo "installing gows into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/has-test: $(VENV)/has-gows
	@echo "installing what the tests need into $(VENV) (half a minute)"
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/has-lint: $(VENV)/has-gows
	@echo "installing ruff and mypy into $(VENV)"
	@$(PIP) --editable '.[lint]'
	@touch $@
