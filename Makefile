# Two commands do everything: `make run` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NOTEBOOKS := -p nbmake.pytest_plugin -p tests.notebooks --nbmake --nbmake-timeout=300
INSTALLED := $(VENV)/.installed

.PHONY: help run test notebooks install demo browser lint coverage mutants docs wheel bench bench-hf soak audit clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 16

run: install demo ## set everything up and start the page
	@$(BIN)/workbench serve

# WORKERS=2 runs two at a time, the tests of a file in one process. The notebooks are begun first.
test: install demo browser ## set everything up and run all tests
	@$(BIN)/python -m pytest -n $(or $(WORKERS),0) --dist loadfile --no-loadscope-reorder $(NOTEBOOKS) notebooks tests

notebooks: install demo ## run the notebooks as tests
	@$(BIN)/python -m pytest -n $(or $(WORKERS),0) --dist loadfile $(NOTEBOOKS) notebooks

install: $(INSTALLED) ## make the virtual environment (quick when nothing changed)

# pip first: the wheels of this set need a resolver younger than some systems ship.
$(INSTALLED): pyproject.toml .ci/constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (two to five minutes the first time)"
	@$(BIN)/python -m pip install -qq --upgrade pip
	@$(BIN)/python -m pip install -qq --progress-bar off -c .ci/constraints.txt -e '.[dev]'
	@touch $@

demo: install ## bring the small demo model (once)
	@$(BIN)/workbench models pull demo

# The page is tested in a real Chromium: the system's, else Debian's package, else playwright's.
browser: install
	@if ! command -v chromium chromium-browser google-chrome >/dev/null; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "Installing chromium"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	  else $(BIN)/python -m playwright install chromium; fi; \
	fi

lint: install ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: install ## build the documentation into site/, with no warning
	@$(BIN)/python -m pip install -qq --progress-bar off -c .ci/constraints.txt -e '.[docs]'
	@$(BIN)/python docs/generate.py --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# ARGS="--lowest" takes the oldest packages that pyproject.toml allows.
wheel: ## build the wheel, install it into an empty environment and serve from it
	@$(PYTHON) .ci/wheel $(ARGS)

# In pieces: ended and begun again, it goes on where it was. An hour in all, twice the tests alone.
# ARGS="tests/store" is of some tests only, ARGS="--minutes 9" begins nothing after nine minutes.
coverage: install demo browser ## lines and branches that the tests run, by package
	@$(BIN)/python -m pip install -qq --progress-bar off -c .ci/constraints.txt -e '.[reliability]'
	@$(BIN)/python -m benchmarks.coverage_pieces $(ARGS)

# ARGS="'workbench.router*'" is of one module; some minutes for all. Each survivor is shown.
mutants: install ## changes to metrics, router and rotation policy that no test notices
	@$(BIN)/python -m pip install -qq --progress-bar off -c .ci/constraints.txt -e '.[reliability]'
	@$(BIN)/python -m tests.reliability.mutants $(ARGS)

bench: install demo ## the quick benchmark, and the engine's performance table as JSON and Markdown
	@$(BIN)/workbench bench run benchmarks/specs/quick.toml
	@$(BIN)/python -m benchmarks.overhead

# ARGS="--quick" is a run of minutes; the full one wants a quiet machine for a quarter of an hour.
bench-hf: install demo ## the Hugging Face engine against its peers, in turns
	@$(BIN)/python -m pip install -qq --progress-bar off -c .ci/constraints.txt -e '.[bench]'
	@$(BIN)/python -m benchmarks.hf_engine $(ARGS)

# MINUTES=5 is a short one. Faults are injected by: .venv/bin/python -m tests.reliability.campaign
soak: install demo ## many users, long answers and too little memory for an hour (MINUTES=60)
	@$(BIN)/python -m tests.reliability.soak --minutes $(or $(MINUTES),60)

# Asks OSV, a database of known holes, over the network; .ci/audit runs it where that answers. What
# it does not know it cannot tell, and torch's own builds (+cpu, +cu) are looked up by their base.
audit: ## known security holes in the pinned packages (needs the network)
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install -qq pip-audit; }
	@grep -v '^#' .ci/constraints.txt | sed 's/+[a-z0-9.]*$$//' > .venv-audit/pins.txt
	@.venv-audit/bin/pip-audit --vulnerability-service osv --strict --no-deps --disable-pip --progress-spinner off -r .venv-audit/pins.txt

clean: ## remove the environment and caches (models and the log stay)
	@rm -rf $(VENV) .venv-audit site .pytest_cache .mypy_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +
