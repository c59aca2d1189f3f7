# make demo    train, evaluate and report a small factorial of models on embedded data
# make test    the whole test suite, in two processes
# make lint    formatting, lint, types and the order of imports
# make install the set-up alone; the others call it, and it does nothing when nothing has changed
#
# VENV=dir puts the environment elsewhere, PYTHON=python3.12 picks the interpreter that makes it,
# ARGS="…" is handed on to the demo or to pytest.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
comma := ,
# Idle threads that spin slow small networks down many times where others use the cores too.
export GOMP_SPINCOUNT ?= 20000

.DEFAULT_GOAL := help
.PHONY: help install demo test lint

help:
	@sed -n '/^[A-Z]/q; s/^# \{0,1\}//p' Makefile

# $(call timed,label,what it does,command)
timed = @echo "$(1): $(2)"; start=$$(date +%s); $(3) && echo "$(1): done in $$(($$(date +%s) - start)) s"

install: $(VENV)/.installed
	@echo "install: $(VENV) is ready"

demo: $(VENV)/.installed
	$(call timed,demo,trains$(comma) evaluates and reports five small models,$(RUN) -m ensemble_bench demo $(ARGS))

test: $(VENV)/.installed
	$(call timed,test,the whole test suite,$(RUN) -m pytest -n 2 --dist loadfile $(ARGS))

lint: $(VENV)/.installed-dev
	$(call timed,lint,ruff$(comma) mypy and lint-imports,\
		$(RUN) -m ruff format --check . && $(RUN) -m ruff check . && $(RUN) -m mypy && $(VENV)/bin/lint-imports)

# The stamp is written last, so that an install that broke off is done again.
$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "install: needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1); name one with PYTHON=…" >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv "$(VENV)"
	$(call timed,install,the package and all it needs$(comma) about 6 GB$(comma) into $(VENV) (a few minutes),\
		$(PIP) install -q -e '.[test]' && touch "$@")

$(VENV)/.installed-dev: $(VENV)/.installed
	$(call timed,install,the development tools into $(VENV),$(PIP) install -q -e '.[dev]' && touch "$@")
