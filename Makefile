# Everything runs in .venv, which each target makes itself: Python >= 3.11, pip and make are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
SOURCES := jaxprune tests experiments docs
NEWER := jax==0.11.2 jaxlib==0.11.2 flax==0.12.12# beside constraints.txt; Python 3.12 or later

export JAX_PLATFORMS ?= cpu

.PHONY: help install demo test slow parity floors newer notebooks outputs docs wheel check format format-check lint types doctest
.PHONY: golden clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

# One stamp for each set of packages: installed again only when pyproject.toml or constraints.txt changes.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jaxprune needs Python 3.11 or later; name one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/installed-parity: $(VENV)/installed
	$(INSTALL) torch==2.13.0 peft==0.21.2 lm_eval==0.4.13
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(INSTALL) -e '.[docs]'
	@touch $@

$(VENV)/installed-notebooks: $(VENV)/installed
	$(INSTALL) -e '.[notebooks]'
	@touch $@

install: $(VENV)/installed ## make .venv with jaxprune and its test packages

demo: $(VENV)/installed ## prune the embedded model with four methods; a table and a plot
	$(BIN)/jaxprune demo

EXAMPLES := tests/docs/test_snippets_guides.py tests/docs/test_snippets_methods.py
TESTS := tests --ignore=tests/parity $(addprefix --ignore=,$(EXAMPLES)) -n auto --dist loadfile

test: $(VENV)/installed ## the tests that need neither torch nor much time
	$(BIN)/python -m pytest $(TESTS) -m 'not slow'

slow: $(VENV)/installed ## the others that need no torch: whole programs, several devices, the script that measures a GPU
	$(BIN)/python -m pytest $(TESTS) -m slow

parity: $(VENV)/installed-parity ## logits against transformers on torch, adapters against PEFT, lm-evaluation-harness (CPU)
	$(BIN)/python -m pytest tests/parity

floors: ## the tests on the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv $(VENV)-floors
	$(PYTHON) .ci/floors.py > $(VENV)-floors/floors.txt
	$(VENV)-floors/bin/python -m pip install --quiet --disable-pip-version-check -c $(VENV)-floors/floors.txt -e '.[test]'
	$(VENV)-floors/bin/python -m pytest tests --ignore=tests/parity

newer: ## the tests on a newer JAX than constraints.txt pins; needs Python 3.12
	$(PYTHON) -m venv $(VENV)-newer
	grep -vE '^(jax|jaxlib|flax)==' constraints.txt > $(VENV)-newer/constraints.txt
	$(VENV)-newer/bin/python -m pip install --quiet --disable-pip-version-check -c $(VENV)-newer/constraints.txt $(NEWER) -e '.[test]'
	$(VENV)-newer/bin/python -m pytest tests --ignore=tests/parity

notebooks: $(VENV)/installed ## execute every notebook at tiny size
	JAXPRUNE_TINY=1 $(BIN)/python experiments/run_notebook.py $(NOTEBOOKS)

outputs: $(VENV)/installed-notebooks ## execute every notebook at full size and keep what it shows in its file
	$(BIN)/python experiments/keep_outputs.py $(NOTEBOOKS)

docs: $(VENV)/installed-docs ## the documentation as a site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: ## build the wheel, install it into an empty environment and run the demo there, away from the sources
	rm -rf dist $(VENV)-wheel
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(VENV)-wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd $(VENV)-wheel && bin/python -c 'from importlib.resources import files; assert files("jaxprune").joinpath("py.typed").is_file()'
	cd $(VENV)-wheel && bin/jaxprune demo --out demo

check: format-check lint types test slow ## what a change must pass

format: $(VENV)/installed-dev ## rewrite the sources in the one format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --select I --fix $(SOURCES)

format-check: $(VENV)/installed-dev
	$(BIN)/ruff format --check $(SOURCES)

lint: $(VENV)/installed-dev ## ruff
	$(BIN)/ruff check $(SOURCES)

types: $(VENV)/installed-dev ## pyright
	$(BIN)/pyright

doctest: $(VENV)/installed ## the examples in docstrings, in README.md and in the pages of docs
	$(BIN)/python -m pytest --doctest-modules jaxprune
	$(BIN)/python -m pytest $(EXAMPLES) -n auto --dist loadfile

golden: $(VENV)/installed-parity ## make the golden files again, from transformers on torch
	$(BIN)/python experiments/make_golden.py

clean: ## remove what the targets above have made, but not build/models
	rm -rf $(VENV) $(VENV)-floors $(VENV)-newer $(VENV)-wheel .pytest_cache .ruff_cache .hypothesis dist build/demo build/site
