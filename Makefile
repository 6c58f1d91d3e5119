# Everything here does its own set-up: a machine with Python 3.11 and pip is enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-long test-lowest lint bench clean

demo: $(VENV)/.run        ## train on synthetic images and show a result, in a minute or two
	$(BIN)/python -m engine.train --demo

# Two processes of one compute thread each: trainings of two threads would wait for one another.
test: $(VENV)/.dev        ## the tests, in under ten minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-long: $(VENV)/.dev   ## the long suite
	$(BIN)/python -m pytest -m long --timeout 3600

test-lowest:              ## a smoke test with the lowest versions that pyproject.toml declares
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet $$($(PYTHON) tests/lowest.py)
	$(VENV)-lowest/bin/python tests/smoke.py

lint: $(VENV)/.dev        ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev       ## what the engine's step costs over a bare loop
	$(BIN)/python -m benchmarks.loop_overhead

clean:
	rm -rf $(VENV) $(VENV)-lowest .mypy_cache .ruff_cache .pytest_cache *.egg-info

$(VENV)/.run: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
