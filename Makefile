# `make run` trains a network, `make test` checks the code and runs the fast tests.
# Needs Python 3.11 or newer, make and git; everything else is installed into .venv.

PYTHON ?= python3
# The build of torch that uv installs: cpu, cu130, auto. Empty: the build on the package index.
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
	$(BIN)/pytest -m "not slow and not cuda" -n auto --maxprocesses 4 --dist loadfile

test-slow: setup
	$(BIN)/pytest -m "slow and not cuda" -s

setup: $(VENV)/.done

# Byte code is compiled here once; otherwise every start would compile it if PYTHONDONTWRITEBYTECODE is set.
$(VENV)/.done: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	UV=$$(command -v uv || echo $(BIN)/uv); $$UV pip install --quiet --python $(BIN)/python --compile-bytecode \
		$(BACKEND) $(if $(TORCH_BACKEND),,-c constraints.txt) -e '.[dev,export,plots,sweep,tables,texts]'
	$(BIN)/python -m compileall -q dlcli tests
	touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Trains every recipe and checks that it reaches its stated result. Needs DLCLI_DATA_DIR for MNIST and similar data sets.
recipes: setup
	$(BIN)/pytest -m "slow and not cuda" -s tests/test_recipes.py

# Compares start-up, throughput and memory with plain training loops; writes docs/benchmarks.*
bench: setup
	$(BIN)/python -m tests.benchmarks

# Compares with other trainers, which are installed into a separate environment.
bench-peers: bench-setup
	$(PEERS)/bin/python -m tests.benchmarks.trainers --save
	$(PEERS)/bin/python -m tests.benchmarks.zoo --save
	$(PEERS)/bin/python -m tests.benchmarks.sweeps --save

bench-setup: $(PEERS)/.done

$(PEERS)/.done: pyproject.toml constraints.txt constraints-bench.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	command -v uv >/dev/null || test -x $(BIN)/uv || test -x $(PEERS)/bin/uv || \
		$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check uv
	UV=$$(command -v uv || ls $(BIN)/uv $(PEERS)/bin/uv 2>/dev/null | head -1); \
		$$UV pip install --quiet --python $(PEERS)/bin/python --compile-bytecode \
		$(BACKEND) $(if $(TORCH_BACKEND),,-c constraints.txt -c constraints-bench.txt) -e '.[bench]'
	touch $@

# Throughput and tests on a machine with a GPU.
bench-cuda: setup
	$(BIN)/python -m tests.benchmarks.cuda --save

test-cuda: setup
	$(BIN)/pytest -m cuda

clean:
	rm -rf $(VENV) $(PEERS) build .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
