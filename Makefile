# Every target sets up what it needs first; `make` alone lists them.
# Set PYTHON=/path/to/python3.12 to choose the Python that .venv is made with.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# rustup installs for one user and does not touch PATH here.
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
export CARGO_HOME ?= $(USERPROFILE)/.cargo
export PATH := $(CARGO_HOME)/bin;$(PATH)
else
BIN := .venv/bin
export CARGO_HOME ?= $(HOME)/.cargo
export PATH := $(CARGO_HOME)/bin:$(PATH)
endif
PY := $(BIN)/python
# Worker processes import whole frameworks; without bytecode each compiles them for itself.
unexport PYTHONDONTWRITEBYTECODE
CARGO := cargo
MANIFEST := kernels_rs/Cargo.toml

# Two workers suit the smallest machine that the suite must finish on; WORKERS=auto uses all cores.
WORKERS ?= 2
PYTEST := $(PY) -m pytest
SOAK_MINUTES ?= 30

.PHONY: help setup demo test conformance bench soak docs lint format wheels clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1|/' | \
	    awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: ## set up .venv: pinned packages, Rust kernels, our own distributions (again: under a second)
	@python=$$(sh .ci/find-python) && $$python .ci/setup.py

demo: setup ## all six verbs on a small network, with an application that calls it; pages in demo-out/
	@$(PY) docs/examples/demo.py --out demo-out

test: lint wheels ## lint, types, Rust tests, unit and integration tests (the last line is pytest's)
	$(CARGO) test --quiet --locked --lib --package lepton-quant --manifest-path $(MANIFEST)
	$(PYTEST) -n $(WORKERS) --dist loadgroup -m "not conformance"

conformance: setup ## the long conformance run of the plugins of this tree
	$(PYTEST) -m conformance

bench: setup ## all benchmarks beside their peers (long), written to bench-out/
	$(PY) .ci/bench.py --out bench-out

soak: setup ## property and unit tests with fresh seeds for SOAK_MINUTES (30), stops at a failure
	$(PY) .ci/soak.py --minutes $(SOAK_MINUTES)

docs: setup ## check the links of all documents and run their snippets
	$(PY) .ci/docs.py

lint: setup ## ruff, mypy, cargo fmt and clippy, without changing anything
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(CARGO) fmt --all --check --manifest-path $(MANIFEST)
	$(CARGO) clippy --quiet --locked --all-targets --manifest-path $(MANIFEST) -- -D warnings

format: setup ## let ruff and cargo fmt rewrite what they can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(CARGO) fmt --all --manifest-path $(MANIFEST)

wheels: setup ## build the wheels of all first-party distributions into dist/
	@$(PY) .ci/wheels.py

clean: ## remove what was built and written, but not .venv and the downloads
	rm -rf dist build demo-out bench-out out kernels_rs/target
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
