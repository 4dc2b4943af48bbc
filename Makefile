# make help lists everything. Everything is installed into .venv; nothing outside this folder is touched, except that
# `make servers` installs Debian packages for the tests when it may (root).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEMO_DIR ?= demo-run
OUT ?= bench-out
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help setup servers demo test unit check format bench lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install learnd and all it needs into .venv (about a minute, then nothing to do)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "learnd needs Python 3.11 or newer; $(PYTHON) is older. Run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 69; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "cannot make a virtual environment. On Debian: apt-get install python3-venv"; exit 69; }
	@echo "installing into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $(STAMP)

servers: ## Install what the tests start: Java and Maven (Kafka), PostgreSQL
	@tests/servers/install

demo: setup ## Play a small product's weeks through the real loop (about 4 minutes on 2 idle cores)
	@$(BIN)/learnd demo --dir $(DEMO_DIR)

test: setup servers ## All tests, with a real Kafka and a real PostgreSQL; a file at a time on each of two cores
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=15

unit: setup ## The tests that need no server, no torch and no patience
	@$(BIN)/python -m pytest -q -n 2 -m "not (kafka or postgres or torch or slow or browser or gpu)"

check: setup ## Style, types, and the one-way rule between the packages
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## Let ruff write the code its way
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: setup servers ## Every benchmark: JSON and a picture each in bench-out, the README's table from them
	@$(BIN)/python -m tests.benchmarks --out $(OUT)

lock: setup ## Resolve the dependencies again (hashed, without any registry's address)
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  --extra dev pyproject.toml -o requirements.lock

clean: ## Remove what the targets above made
	@rm -rf $(VENV) $(DEMO_DIR) $(OUT) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
