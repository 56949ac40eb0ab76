# `make demo` and `make test` set up all they need in .venv, on any machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow bench lint format clean help

help:
	@echo "make demo       the whole road on the built-in band, then open demo/.../report.html"
	@echo "make test       lint, types and tests (minutes)"
	@echo "make test-slow  the long tests too: 100 kill -9, overfit"
	@echo "make bench      figures against named peers"
	@echo "make lint       ruff, mypy and the secret scan only"
	@echo "make clean      remove .venv and caches"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "partimento needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins every package, so both stamps give the same environment everywhere.
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/partimento demo

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline

test: lint
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 8 --dist loadfile

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow -n auto --maxprocesses 8 --dist loadfile

bench: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python bench/decoder.py
	$(BIN)/python bench/sample.py
	$(BIN)/python bench/train.py
	$(BIN)/python bench/codec_streams.py
	$(BIN)/python bench/data.py
	$(BIN)/python bench/fuzz.py
	$(BIN)/python bench/faults.py
	$(BIN)/python bench/kill_encode.py
	$(BIN)/python bench/kill_train.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
