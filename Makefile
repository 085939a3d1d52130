# Set-up and checks. `make tutorial` and `make test` need only Python 3.11 and make.
PYTHON      ?= python3.11
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
PYTHONS     ?= 3.10 3.12 3.13 3.14
WORKERS     ?= 2
BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
COMPILE := $(BIN)/uv pip compile --quiet --no-header --no-annotate pyproject.toml
# Tests start many processes: without kept bytecode each of them compiles the sources again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: tutorial test pytest test-slow test-pythons test-lowest coverage mutants check lint types format docs dist bench lock clean

tutorial: $(VENV)/.installed  ## The tutorial on the included MNIST, from raw images to the report.
	$(BIN)/fusion tutorial --work examples/mnist_odd_even/work $(ARGS)

test: lint  ## Lint, types, and all tests except the slow ones.
	$(MAKE) --no-print-directory -j2 types pytest

pytest: $(VENV)/.installed-dev  ## All tests except the slow ones, in random order; ARGS="--random-order-seed=N" repeats one.
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --random-order -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-dev  ## The slow tests.
	$(BIN)/python -m pytest -m slow $(ARGS)

test-pythons:  ## The tests on each other Python that is here; each is installed into .venv-VERSION and removed again.
	@for version in $(PYTHONS); do \
	    export PYENV_VERSION=$$version; \
	    if ! python$$version -c "" 2> /dev/null; then echo "Python $$version is not here: not tested"; continue; fi; \
	    set -- PYTHON=python$$version VENV=.venv-$$version; \
	    if timeout 480 $(MAKE) -s "$$@" .venv-$$version/.installed-dev; then \
	        echo "Python $$version:"; $(MAKE) -s "$$@" pytest || exit 1; \
	    else echo "Python $$version: its packages cannot be installed in 8 minutes: not tested"; fi; \
	    rm -rf .venv-$$version; \
	done

test-lowest:  ## The tests with the lowest versions of all packages that pyproject.toml allows.
	@set -- --old-file=build/lowest.txt VENV=.venv-lowest CONSTRAINTS=build/lowest.txt; \
	if timeout 480 sh -c '$(MAKE) -s build/lowest.txt && $(MAKE) -s "$$@" .venv-lowest/.installed-dev' - "$$@"; then \
	    echo "The lowest versions:"; $(MAKE) -s "$$@" pytest; \
	else echo "the lowest versions cannot be installed in 8 minutes: not tested"; fi

build/lowest.txt: pyproject.toml | $(VENV)/.installed-dev
	$(COMPILE) --resolution lowest-direct --extra dev --python-version 3.11 --output-file $@

lock: $(VENV)/.installed-dev  ## Take the newest versions of all packages into constraints.txt.
	$(COMPILE) --universal --all-extras --python-version 3.10 --upgrade --output-file constraints.txt

coverage: $(VENV)/.installed-dev  ## The share of lines that the tests run, in the processes that they start too.
	$(BIN)/python -m pytest -m "not slow" --cov --cov-report=term-missing:skip-covered $(ARGS)

mutants: $(VENV)/.installed-dev  ## The share of small mistakes that the tests notice, per package; takes hours, or ARGS="fusion/merge".
	$(BIN)/python tests/mutants.py $(ARGS)

check: lint types  ## ruff and mypy --strict.

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## Format the sources.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs  ## The documentation as a site, in build/site; a broken link is an error.
	$(BIN)/python docs/build_site.py

dist: $(VENV)/.installed-dev  ## The source distribution and the wheel, in dist.
	$(BIN)/uv build --quiet

bench: $(VENV)/.installed-dev  ## Measure the performance figures of the README on this machine.
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis examples/mnist_odd_even/work

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(INSTALL) -e ".[dev]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(INSTALL) -e ".[docs]"
	touch $@
