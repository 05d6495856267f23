# make demo    the main job on one machine: emulated vLLM servers, load, adapter and HPA
# make test    the whole test suite
# ARGS passes arguments on: make demo ARGS="--duration 120 --no-tui --speed 10"; make test ARGS="-k quantity"
# COVERAGE=1 with make test measures coverage; WORKERS=0 runs the tests in one process (for a debugger)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
COVERAGE ?=
# One process more than cores, as many tests wait for servers.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# A test module stays with one process: its fixtures are made once. tests/conftest.py says which come first.
# Hundreds of programs that tests start would be compiled each anew where Python is told to keep no bytecode.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test fuzz pythons lint types imports check format bench chaos soak constraints clean help
.DEFAULT_GOAL := help

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt scripts/bootstrap
	@scripts/bootstrap $(VENV) $(STAMP)

demo: $(STAMP) ## emulated vLLM servers, load, adapter and HPA on this machine
	@$(BIN)/variant-adapter demo $(ARGS)

test: $(STAMP) ## the test suite; with COVERAGE=1 its coverage too, which must not fall
	@scripts/test-tools
ifeq ($(COVERAGE),)
	@$(PYTEST) $(ARGS)
else
	@$(PYTEST) --cov --cov-report=term:skip-covered $(ARGS)
endif

# The readers are those of tests/fuzz/readers.py, those that take longest first.
READERS := neighbours requests objects configmaps budgets pages pickers answers selectors annotations status watches traces leases paths
RUNS ?= 1000000
# What is short and odd finds more in the same time, where a character takes long.
SHORT_TEXTS := budgets configmaps neighbours objects
FUZZ := PYTHONPATH=. $(BIN)/python -P tests/fuzz

fuzz: $(STAMP) ## every reader of foreign bytes under RUNS inputs of the coverage-guided fuzzer, one a core, with a time check
	@scripts/test-tools
	@printf '%s\n' $(READERS) parsers | xargs -P $$(getconf _NPROCESSORS_ONLN) -I READER sh -c 'echo "== READER"; case READER in parsers) $(FUZZ)/parsers.py -runs=$(RUNS) -verbosity=0;; *) $(FUZZ)/readers.py READER -runs=$(RUNS) -verbosity=0 -max_len=$$(case " $(SHORT_TEXTS) " in *" READER "*) echo 512;; *) echo 4096;; esac);; esac || { echo "READER failed"; exit 1; }'

pythons: ## the test suite with Python 3.12 and 3.13, where this machine has them
	@scripts/test-pythons $(ARGS)

lint: $(STAMP) ## ruff: rules and format; texts of flags and fields; sizes of modules and functions; names
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python -P scripts/check_texts.py && $(BIN)/python -P scripts/check_sizes.py && $(BIN)/python -P scripts/check_names.py

types: $(STAMP) ## mypy, strict
	@$(BIN)/mypy

imports: $(STAMP) ## import contracts: which package may import which
	@$(BIN)/lint-imports

check: lint types imports test ## everything CI runs

format: $(STAMP) ## let ruff rewrite the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

# -P: bench's scripts are named like the packages and must not hide them.
bench: $(STAMP) ## every benchmark, each prints one table
	@failed=; for script in bench/[a-z]*.py bench/cycles/*.py; do echo "== $$script"; $(BIN)/python -P $$script || failed=1; done; [ -z "$$failed" ]

chaos: $(STAMP) ## faulty inputs of every kind, then faults put into the running program: two tables of what holds
	@$(BIN)/python -P bench/resilience/inputs.py
	@$(BIN)/python bench/resilience/chaos.py $(ARGS)

soak: $(STAMP) ## 1,000 variants under mixed load: memory and open files; ARGS="--minutes 60"
	@$(BIN)/python bench/resilience/soak.py $(ARGS)

constraints: ## resolve constraints.txt anew (needs uv)
	@uv pip compile --universal --python-version 3.11 --upgrade --extra plots --extra dev pyproject.toml -q --no-header --no-annotate -o constraints.txt

clean: ## remove what the other targets made
	@rm -rf $(VENV) $(VENV)-3.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo-out
