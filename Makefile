# Every target installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Options of the speed benchmark, e.g. BENCH="--model net.safetensors --arch mynets:net --examples images.npz"
BENCH ?=
# A process per processor; the tests of a file stay together, for what they share.
SPREAD ?= --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all lint bench clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/moth-eval demo --out demo

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not slow" $(SPREAD)

test-all: lint
	$(BIN)/python -m pytest $(SPREAD)

bench: .venv/.installed
	$(BIN)/python -m benchmarks.speed $(BENCH)

clean:
	rm -rf .venv demo build dist *.egg-info
