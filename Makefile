# The chores of this repository. `make help` lists them; continuous integration calls `lint` and `test`.
# Needed: python3 >= 3.11, a C++20 compiler, and pip able to fetch packages. Everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TEST_WORKERS ?= 2
TEST_ARGS ?=
FUZZ_MINUTES ?= 10

# Python sources are live in the editable install; these are what a rebuild of the extension depends on.
CPP_FILES := $(sort $(shell find cpp -type f \( -name '*.h' -o -name '*.cc' \)))
NATIVE_INPUTS := pyproject.toml CMakeLists.txt $(filter cpp/astra/% cpp/bindings/%,$(CPP_FILES))

RUN_CONFIG := inputs/clusters/h100-llama-8b.yaml
RUN_WORKLOAD := out/sharegpt-like-300.jsonl
RUN_OUTPUT := out/run

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help run test lint format bench validate validate-astra fuzz explore docs changelog clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.package $(RUN_WORKLOAD) ## Simulate 300 requests on one H100 and say where the results lie
	$(BIN)/llmservingsim run $(RUN_CONFIG) --workload $(RUN_WORKLOAD) --output $(RUN_OUTPUT)

test: $(VENV)/.dev ## Run every test
	$(BIN)/python -m pytest -n $(TEST_WORKERS) $(TEST_ARGS)

lint: $(VENV)/.dev ## Check style, types and formatting; change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)

format: $(VENV)/.dev ## Format the Python and C++ sources in place
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

bench: $(VENV)/.dev ## Run the benchmarks; fails when a goal is missed
	@set -e; for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench; done

validate: $(VENV)/.dev ## Compare with measured runs, where their data is beside the repository
	$(BIN)/python benchmarks/validate.py

validate-astra: $(VENV)/.dev ## Compare with every reference run of ASTRA-sim, where they are beside the repository
	$(BIN)/python benchmarks/validate_astra.py

fuzz: $(VENV)/.dev ## Give `llmservingsim astra` spoilt inputs for FUZZ_MINUTES; fails if one is neither run nor refused
	$(BIN)/python benchmarks/fuzz_astra.py --minutes $(FUZZ_MINUTES)

explore: $(VENV)/.dev ## Run the property tests on examples that nobody has seen yet
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -n $(TEST_WORKERS) $(TEST_ARGS) tests/properties tests/end_to_end tests/contracts

docs: $(VENV)/.dev ## Write the generated reference pages, and what commands print on the others
	$(BIN)/python -m llmservingsim.cli.reference docs/reference
	$(BIN)/python tests/tidy/refresh_pages.py

changelog: $(VENV)/.dev ## Show what changelog.d/ would add to CHANGELOG.md
	$(BIN)/towncrier build --draft --version next

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis docs/_build
	find llmservingsim tests benchmarks \( -name __pycache__ -o -name '*.so' \) -prune -exec rm -rf {} +

$(RUN_WORKLOAD): | $(VENV)/.package
	@mkdir -p $(@D)
	$(BIN)/llmservingsim workload generate --lengths sharegpt --num-requests 300 --arrival poisson \
	  --request-rate 10 --seed 0 --output $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python >= 3.11 is needed, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# Stamps: what is installed. A stamp is made again when the extension's sources or the dependencies change.
$(VENV)/.package: $(NATIVE_INPUTS) | $(BIN)/python
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(NATIVE_INPUTS) | $(BIN)/python
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/.package $@
