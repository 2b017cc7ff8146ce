# make report | dev | test | readme | docs | bench | bench-peers | bench-magic | clean       (see "Contributing" in README.md)
#   PYTHON=python3.11    the Python that .venv is made with
#   FLAGS="slow net"     test flags to switch on as well (tst_flags in settings.ini)
#   JOBS=2 THREADS=1     pages tested side by side, and threads for each
#   GRIDS="cluster gan"   for `make bench`: these grids only; RESULTS=results: where the files go

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
THREADS ?= 1
FLAGS  ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt
SETUP  := settings.ini setup.py pyproject.toml constraints.txt

# Real data: $SCNB_DATA as it is set, else the folder beside this one, if there is one.
ifeq ($(origin SCNB_DATA), undefined)
  ifneq ($(realpath ../shared/data),)
    export SCNB_DATA := $(realpath ../shared/data)
  endif
endif

RESULTS ?= results

.PHONY: report dev test readme docs bench bench-peers bench-magic clean
.DELETE_ON_ERROR:

report: $(VENV)/.installed
	$(BIN)/scnb report -o report --overwrite

# The environment alone, for working on pages. Without a GPU, put PyTorch's processor-only build into .venv first (see README.md).
dev: $(VENV)/.installed-dev
	@echo ". $(VENV)/bin/activate"

test: $(VENV)/.installed-dev
	@$(BIN)/python .ci/check.py --jobs $(JOBS) --threads $(THREADS) --flags "$(FLAGS)"

readme: $(VENV)/.installed-dev
	$(BIN)/python .ci/readme.py

docs: readme
	@command -v quarto >/dev/null || { echo "make docs: Quarto is not on the PATH; it is a program of its own (quarto.org), not a Python package" >&2; exit 1; }
	rm -rf _proc _docs
	PYTHONPATH=.ci PATH="$(abspath $(BIN)):$$PATH" nbdev_docs

# The stored results once more, into a folder of their own: days of one processor for all grids. What is there is not run again;
# a grid that needs a peer which is not here says so, and the others go on.
bench: $(VENV)/.installed
	@for grid in $(or $(GRIDS),$$($(BIN)/scnb bench --list)); do \
	  OMP_NUM_THREADS=$(THREADS) NUMBA_NUM_THREADS=$(THREADS) $(BIN)/scnb bench $$grid --results $(RESULTS) || missed="$$missed $$grid"; \
	done; test -z "$$missed" || { echo "make bench: not finished:$$missed" >&2; exit 1; }

# What `scnb bench speed --peers` compares with, in an environment of its own.
bench-peers: .venv-peers/.installed

.venv-peers/.installed: .ci/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --no-input --disable-pip-version-check -r .ci/peers.txt
	@touch $@

# MAGIC, which `scnb bench mcv` compares with, needs older libraries than anything else here.
bench-magic: .venv-magic/.installed

.venv-magic/.installed: .ci/magic.txt
	$(PYTHON) -m venv .venv-magic
	.venv-magic/bin/python -m pip install --quiet --no-input --disable-pip-version-check -r .ci/magic.txt
	@touch $@

clean:
	rm -rf $(VENV) .venv-peers .venv-magic _proc _docs build dist report *.egg-info nbs/nbdev.yml nbs/.ipynb_checkpoints nbs/.last_checked
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment: the runtime packages first, what the pages' tests need on top.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "scnb needs Python 3.11 or newer; name one: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SETUP) | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(SETUP) | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $(VENV)/.installed $@
