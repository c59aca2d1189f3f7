# make demo    train, evaluate and report a small factorial of models on embedded data
# make test    the whole test suite, in two processes
# make lint    formatting, lint, types and the order of imports
# make install the set-up alone; the others call it, and it does nothing when nothing has changed
# make bench   speed side by side with other toolkits (half an hour on two idle cores)
# make pages   renders every page that shows what was measured, from the records and from what benchmarks saved
# make docs    the documentation as a site, into docs/_build/html
# make notebooks
#              runs the notebooks and stores their outputs in them
# make browser Chromium for the tests of the pages: by apt-get as root, else Playwright's own for this user
# make test-machines
#              the tests that call a network under other instruction sets, thread counts, Pythons and the oldest
#              packages (environments of their own, about 6 GB each); SETTINGS="avx2 oldest" for some of these
# make mutants faults planted in the code that numbers rest on, and how many of them the tests notice (an hour or
#              two); ARGS="--groups threat losses" for some of it
#
# VENV=dir puts the environment elsewhere, PYTHON=python3.12 picks the interpreter that makes it,
# ARGS="…" is handed on to the demo, to the benchmarks or to pytest.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SETTINGS ?=
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
comma := ,
# Idle threads that spin slow small networks down many times where others use the cores too.
export GOMP_SPINCOUNT ?= 20000

.DEFAULT_GOAL := help
.PHONY: help install demo test lint docs notebooks bench pages browser test-machines mutants

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

docs: $(VENV)/.installed
	$(call timed,docs,the documentation as a site$(comma) into docs/_build/html,\
		$(RUN) -m sphinx -q -W --keep-going docs docs/_build/html $(ARGS))

notebooks: $(VENV)/.installed
	$(call timed,notebooks,runs the notebooks and stores their outputs,$(RUN) notebooks/execute.py)

bench: $(VENV)/.installed-bench
	$(call timed,bench,speed side by side with other toolkits,$(RUN) benchmarks/run.py $(ARGS) && $(RUN) benchmarks/render_pages.py)

pages: $(VENV)/.installed
	$(call timed,pages,renders every page that shows what was measured,$(RUN) benchmarks/render_pages.py)

test-machines: $(VENV)/.installed-dev
	$(call timed,test-machines,the tests that call a network$(comma) in one setting after the other,\
		$(RUN) tests/machines.py --venv "$(VENV)" --settings "$(SETTINGS)" -- $(ARGS))

mutants: $(VENV)/.installed-mutants
	$(call timed,mutants,faults planted in the code$(comma) and the tests that notice them,\
		$(RUN) tests/mutation/run.py $(ARGS))

# Playwright's own needs no rights but may miss libraries of the system; apt-get brings them.
browser: $(VENV)/.installed
	$(call timed,browser,a Chromium for the tests of the pages (about 150 MB),\
		if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
		elif [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y chromium; then :; \
		else $(RUN) -m playwright install chromium; fi)

# The stamp is written last, so that an install that broke off is done again.
$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "install: needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1); name one with PYTHON=…" >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv "$(VENV)"
	$(call timed,install,the package and all it needs$(comma) about 6 GB$(comma) into $(VENV) (a few minutes),\
		$(PIP) install -q -e '.[test]' && touch "$@")

$(VENV)/.installed-dev: $(VENV)/.installed
	$(call timed,install,the development tools into $(VENV),$(PIP) install -q -e '.[dev]' && touch "$@")

# The constraint reaches the isolated build of a package that adv-lib needs and that imports pkg_resources.
$(VENV)/.installed-bench: $(VENV)/.installed
	$(call timed,install,the toolkits of the benchmarks into $(VENV),\
		PIP_CONSTRAINT=benchmarks/constraints.txt $(PIP) install -q -e '.[bench]' && touch "$@")

$(VENV)/.installed-mutants: $(VENV)/.installed
	$(call timed,install,mutmut into $(VENV),$(PIP) install -q -e '.[mutants]' && touch "$@")
