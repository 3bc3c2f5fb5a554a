# `make demo` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Most modules of torch and transformers are never imported, so compiling them all is in vain.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile \
  -c deploy/constraints.txt
DEPENDENCIES := pyproject.toml deploy/constraints.txt
# Without bytecode each process would compile what it imports anew: torch alone takes 5 s, and the
# tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo serve test check mutants clean

demo: .venv/.run ## render the example pictures with the `nano` model
	$(BIN)/python -m farm.batch examples/pictures --out demo --store demo/store --seeds 0-1 \
	  --fit crop --num-inference-steps 10

serve: .venv/.run ## the farm over HTTP at http://127.0.0.1:8000, with a page to use it by
	$(BIN)/python -m farm serve

# One process runs the tests that start Ray, one after another, while the others run the rest.
test: .venv/.test ## all tests that need no GPU and no long time
	$(BIN)/python -m pytest -n auto --dist loadgroup

check: .venv/.dev ## lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

mutants: .venv/bin/python ## which faults, planted in core modules, no test notices; it takes long
	$(PIP) -e '.[mutation]'
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

clean:
	rm -rf .venv demo mutants

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.run: .venv/bin/python $(DEPENDENCIES)
	$(PIP) -e '.[farm]'
	@touch $@

.venv/.test: .venv/bin/python $(DEPENDENCIES)
	$(PIP) -e '.[test]'
	@touch $@

.venv/.dev: .venv/bin/python $(DEPENDENCIES)
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.test
