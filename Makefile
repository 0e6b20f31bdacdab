# Two commands need no preparation on a fresh Debian machine: make demo, make test.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench explore lock format peers clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

help: ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

$(READY): pyproject.toml requirements/dev.lock
	@deploy/setup.sh venv $(PYTHON) $(VENV)
	@touch $@

peers: ## Install the servers that tests and --store influxdb talk to (Debian packages)
	@deploy/setup.sh peers

demo: $(READY) $(if $(findstring influxdb,$(ARGS)),peers) ## Run a city in a box; ARGS="--seconds 60 --store influxdb"
	@$(BIN)/trisense demo $(ARGS)

test: $(READY) peers ## Run all tests; ARGS goes to pytest
	@$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

explore: $(READY) peers ## Run the tests that draw their examples, with new and many ones; ARGS goes to pytest
	@$(BIN)/pytest -n 2 --dist loadfile --hypothesis-profile explore -m hypothesis $(ARGS)

check: $(READY) ## Lint, types (Python and the page's JavaScript), import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@deploy/setup.sh npm
	npm --prefix gateway/console ci --ignore-scripts --no-audit --no-fund
	npm --prefix gateway/console run check

bench: $(READY) peers ## Print the figures of merit, each beside its limit or a peer
	@for file in tests/bench/bench_*.py; do echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit 1; done

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY) ## Renew the lock files: versions and hashes, no addresses
	@deploy/setup.sh lock $(VENV)

clean: ## Remove everything that make made here
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
