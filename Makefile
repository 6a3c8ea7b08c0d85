# Two commands set everything up: `make demo` and `make test`. Python >= 3.11, git and make suffice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARITY := .venv-parity
SOURCES := mano_jax objectives fitting experiments tests

.DEFAULT_GOAL := help

.PHONY: help install demo test check parity format hand clean

help: ## List the commands.
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /: /'

install: $(VENV)/installed ## Make .venv with the program and its development tools.

$(VENV)/installed: EXTRAS := dev
$(PARITY)/installed: EXTRAS := dev,interop
$(VENV)/installed $(PARITY)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "manofit needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

demo: install ## Refine eight synthetic frames of interacting hands into demo/.
	$(BIN)/manofit demo --out demo --force

# Two processes suit two cores, and 10 GB hold what they compile; a file's tests stay together.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile

test: install ## Run the test suite.
	$(PYTEST)

check: install ## Format, lint and types, then the tests: what a change must pass.
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/pyright
	$(PYTEST)

parity: $(PARITY)/installed ## Compare the hand model with other programs, in a .venv-parity of their own.
	$(PARITY)/bin/python -m pytest -q tests/test_model_parity.py

format: install ## Format the code.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

hand: install ## Make the embedded hand and its contact sheet anew.
	$(BIN)/python -m experiments.embedded_hand.make --out mano_jax/data/embedded_hand.npz
	$(BIN)/python -m experiments.embedded_hand.contact_sheet --out docs/images/embedded_hand.png

clean: ## Remove what the commands above made.
	rm -rf $(VENV) $(PARITY) demo .pytest_cache .ruff_cache
