# Every target works on a fresh clone: the first one that needs it builds .venv.
# Another interpreter: make test PYTHON=python3.12 (after make clean)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ZOO := .venv-zoo
LOWEST := .venv-lowest

.DELETE_ON_ERROR:
.PHONY: demo test lowest conformance zoo bench lint type format clean

# Two workers on two cores: more threads inside each only get in the way.
test lowest conformance zoo: export OMP_NUM_THREADS := 1

# Runs that are there are kept; remove runs/demo to train anew.
demo: $(INSTALLED)
	$(BIN)/sb3-pg compare --algos reinforce,vanillapg,offpolicyispg,a2c,ppo --envs CartPole-v1 --steps 100000 \
		--jobs 2 --out runs/demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

# The lowest versions that pyproject.toml allows of what it asks for itself, and the tests that need no more than that.
lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest $(filter-out tests/test_results_pages.py, $(wildcard tests/test_*.py)) \
		tests/arguments tests/estimators tests/imitation tests/robustness

conformance: $(INSTALLED)
	$(BIN)/python -m tests.conformance.run

# The sb3-pg command in an environment of its own, as a user gets it: a wheel and the extra, nothing else; then the
# Zoo's own test suite with our algorithms in its lists.
zoo: $(INSTALLED) $(ZOO)/.installed
	SB3_PG=$(ZOO)/bin/sb3-pg $(BIN)/python -m pytest tests/zoo_commands
	$(BIN)/python -m tests.conformance.zoo

# Timings: with nothing else running, and as many threads as PyTorch takes.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.speed

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(LOWEST)/.installed: pyproject.toml constraints.txt
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	sed -n '/^dependencies = \[/,/^\]/s/^ *"\([^">]*\)>=\([^",]*\)".*/\1==\2/p' pyproject.toml > $(LOWEST)/constraints.txt
	grep -E '^(torch|pytest|pytest-xdist|hypothesis)=' constraints.txt >> $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/constraints.txt -e ".[test]"
	touch $@

$(ZOO)/.extra: pyproject.toml constraints.txt
	rm -rf $(ZOO)
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ".[zoo]"
	touch $@

$(ZOO)/.installed: $(ZOO)/.extra $(shell find sb3_pg zoo_configs -name '*.py' -o -name '*.yml')
	$(ZOO)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	touch $@

# Leaves runs/ alone: those are results.
clean:
	rm -rf $(VENV) $(ZOO) $(LOWEST) .conformance .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
