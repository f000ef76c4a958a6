# Everything a developer types. `make demo` and `make test` set up by themselves; VENV=path uses an environment of your own, with
# either generation of solo-learn in it (without one, the generation on PyPI is installed).
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
RUN := $(BIN)/python
READY := $(VENV)/.solo-gps-ready
JOBS ?= 2

# solo-learn 1.0.2 pins torch 1.9; these run it on today's (docs/hosts.md says which pins matter).
HOST_102 := torch==2.15.0 torchvision==0.29.2 pytorch-lightning==1.9.5 lightning-bolts==0.7.0 timm==1.0.31 einops scipy "setuptools<81"

.PHONY: setup demo test check audit lint format types layers docs bench clean

setup: $(READY)

$(READY): pyproject.toml Makefile
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@if $(RUN) -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('solo') is not None)"; then \
	  echo "== installing torch and solo-learn 1.0.2 into $(VENV): about 6 GB, two minutes on a fast line"; \
	  $(RUN) -m pip install --quiet --disable-pip-version-check $(HOST_102) && \
	  $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps solo-learn==1.0.2; fi
	@echo "== installing solo-gps into $(VENV)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check "setuptools<81" -e ".[cpu,report,dev]"
	@touch $(READY)

demo: $(READY)
	@$(BIN)/solo-gps demo --out runs/demo

test: $(READY)
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist worksteal $(TESTS)

check: lint types layers test docs

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/bandit -q -c pyproject.toml -r solo_gps hydra_plugins

# Asks the service that knows which releases have holes; needs the network.
audit: $(READY)
	@$(BIN)/bandit -q -c pyproject.toml -r solo_gps hydra_plugins && $(BIN)/pip-audit --skip-editable

format: $(READY)
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

types: $(READY)
	@$(BIN)/mypy

layers: $(READY)
	@$(BIN)/lint-imports

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -f docs/site/mkdocs.yml
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(JOBS) tests/test_docs.py tests/test_site.py tests/test_snippets.py

bench: $(READY)
	@$(RUN) benchmarks/loader.py

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis runs
