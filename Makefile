# Set-up and checks. `make tutorial` and `make test` need only Python 3.11 and make.
PYTHON  ?= python3.11
VENV    ?= .venv
BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: tutorial test test-slow mutants check format bench clean

tutorial: $(VENV)/.installed  ## The tutorial on the included MNIST, from raw images to the report.
	$(BIN)/python examples/mnist_odd_even/tutorial.py $(ARGS)

test: check  ## Lint, types, and all tests except the slow ones.
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-dev  ## The slow tests.
	$(BIN)/python -m pytest -m slow $(ARGS)

mutants: $(VENV)/.installed-dev  ## The share of small mistakes that the tests notice, per package; takes hours, or ARGS="fusion/merge".
	$(BIN)/python tests/mutants.py $(ARGS)

check: $(VENV)/.installed-dev  ## ruff and mypy --strict.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## Format the sources.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev  ## Measure the performance figures of the README on this machine.
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
