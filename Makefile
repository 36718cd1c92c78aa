PYTHON ?= python3
BIN := .venv/bin
MINUTES ?= 30

.PHONY: install check test coverage soak reproduce clean

install:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'

check:
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

test:
	$(BIN)/python -m pytest

coverage:  # without the exploration, which looks at the same lines ten thousand times
	$(BIN)/python -m pytest --numprocesses=$$(nproc) --maxprocesses=8 tests/core tests/paradigms --ignore=tests/paradigms/test_explore.py \
		--cov=dssp_bench.core --cov=dssp_bench.paradigms --cov-branch --cov-report=term-missing --cov-fail-under=100

soak:
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

reproduce:
	$(BIN)/dssp-bench reproduce all

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage
