# The course in two commands:  make lab  (open it)   make test  (check it)
# Where there is no make, as on Windows: python -m course_utils.cli lab, and test. They do the same.

LAB_ARGS ?=
VENV     := .venv
READY    := $(VENV)/.ready
PY       := $(VENV)/bin/python
# The first Python >= 3.11 there is; `make lab PYTHON=/path/to/python` names another.
PYTHON   ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
              $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
.DEFAULT_GOAL := help
.PHONY: help setup lab test lint bench notebooks slides book clean clean-venv

help:  ## list these targets
	@echo "make TARGET, where TARGET is one of"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | awk -F'|' '{printf "%-14s%s\n", $$1, $$2}'

$(READY): constraints.txt pyproject.toml tools/setup_env.py
	@if [ -z "$(PYTHON)" ]; then echo "The course needs Python 3.11 or newer, and found none. Get one at https://www.python.org/downloads/"; exit 1; fi
	@$(PYTHON) tools/setup_env.py

setup: $(READY)  ## make .venv with the pinned packages (the other targets do it when needed)

lab: $(READY)  ## open the course in JupyterLab (LAB_ARGS=--no-browser on a server)
	@$(PY) -m course_utils.cli lab $(LAB_ARGS)

test: $(READY)  ## lint, all tests, every notebook from top to bottom; no network
	@$(PY) -m course_utils.cli test

lint: $(READY)  ## ruff, on the code and on the notebooks' text twins
	@$(PY) -m course_utils.cli test --style

bench: $(READY)  ## our U-Net, DDIM and Stable Diffusion beside diffusers', in pictures/s
	@$(PY) tests/bench.py

notebooks: $(READY)  ## execute all notebooks in order and store their outputs
	@$(PY) tools/notebooks.py sync
	@$(PY) tools/notebooks.py run
	@$(PY) tools/notebooks.py check

slides: $(READY)  ## decks that open without a network, and handouts as PDF, in slides/
	@$(PY) tools/slides.py

book: $(READY)  ## a site of the executed notebooks, with search, glossary and the library's pages, in site/
	@$(PY) tools/book.py

clean:  ## remove what tests, slides and book leave behind
	rm -rf slides site .pytest_cache .ruff_cache build/lib *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-venv:  ## remove the environment
	rm -rf $(VENV)
