# Set-up and checks. On a fresh machine with Python 3.11 and make, `make tutorial` and `make test` need nothing else.
PYTHON  ?= python3.11
VENV    ?= .venv
BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: tutorial test test-slow mutants check format bench clean

tutorial: $(VENV)/.installed  ## The main job on the embedded MNIST, from raw images to the report.
	$(BIN)/python examples/mnist_odd_even/tutorial.py $(ARGS)

test: check  ## Lint, types, and every test but the slow ones.
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-dev  ## What takes longer than the everyday run allows.
	$(BIN)/python -m pytest -m slow $(ARGS)

mutants: $(VENV)/.installed-dev  ## How many small mistakes the tests notice, package by package: hours, or ARGS="fusion/merge".
	$(BIN)/python tests/mutants.py $(ARGS)

check: $(VENV)/.installed-dev  ## ruff and mypy --strict.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## Rewrite the sources in the house format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev  ## Every performance claim of the README, measured here.
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis examples/mnist_odd_even/work

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(INSTALL) -e ".[dev]"
	touch $@ $(VENV)/.installed
