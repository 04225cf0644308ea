# Two words are enough: `make run` trains a network, `make test` runs every check.
# Needs Python 3.11 or newer, make and git; everything else goes into .venv.

PYTHON ?= python3
# uv's choice of a torch build: cpu, cu130, auto. Empty takes torch as the package index has it.
TORCH_BACKEND ?=

VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-bench
BACKEND := $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND))

.PHONY: run test test-slow test-cuda setup check fix recipes bench bench-peers bench-setup bench-cuda clean

run: setup
	$(BIN)/dlcli train cnn
	$(BIN)/dlcli eval latest
	$(BIN)/dlcli runs

test: check
	$(BIN)/pytest -m "not slow and not cuda"

test-slow: setup
	$(BIN)/pytest -m "slow and not cuda" -s

setup: $(VENV)/.done

# Byte code is compiled once here: without it every start pays for it where PYTHONDONTWRITEBYTECODE is set.
$(VENV)/.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	UV=$$(command -v uv || echo $(BIN)/uv); $$UV pip install --quiet --python $(BIN)/python --compile-bytecode \
		$(BACKEND) $(if $(TORCH_BACKEND),,-c constraints.txt) -e '.[dev,export]'
	$(BIN)/python -m compileall -q dlcli tests
	touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Trains every recipe and checks that it reaches what it promises. Needs the data folder for MNIST and its kin.
recipes: setup
	$(BIN)/pytest -m "slow and not cuda" -s tests/test_recipes.py

# Start-up, throughput and memory against plain loops, side by side; writes docs/benchmarks.*
bench: setup
	$(BIN)/python -m tests.benchmarks

# The same against other trainers, which live in an environment of their own.
bench-peers: bench-setup
	$(PEERS)/bin/python -m tests.benchmarks.trainers --save

bench-setup: $(PEERS)/.done

$(PEERS)/.done: pyproject.toml constraints.txt constraints-bench.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	command -v uv >/dev/null || test -x $(BIN)/uv || test -x $(PEERS)/bin/uv || \
		$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check uv
	UV=$$(command -v uv || ls $(BIN)/uv $(PEERS)/bin/uv 2>/dev/null | head -1); \
		$$UV pip install --quiet --python $(PEERS)/bin/python --compile-bytecode \
		$(BACKEND) $(if $(TORCH_BACKEND),,-c constraints.txt -c constraints-bench.txt) -e '.[bench]'
	touch $@

# On a machine with a GPU: throughput there, and what must hold there.
bench-cuda: setup
	$(BIN)/python -m tests.benchmarks.cuda --save

test-cuda: setup
	$(BIN)/pytest -m cuda

clean:
	rm -rf $(VENV) $(PEERS) build .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
