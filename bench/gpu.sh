#!/bin/sh
# The first hour on a GPU: the tests that need one, then what is measured on it (at most 20 minutes).
# From the repository's root; PYTHON is .venv/bin/python unless it is set.
set -e
python=${PYTHON:-.venv/bin/python}
"$python" -m pytest -m gpu -rs tests/test_memory.py tests/experts
"$python" bench/gpu.py "$@"
