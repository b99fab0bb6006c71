# Swell. `make demo` and `make test` need python3 (3.11 or newer) with venv, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(STAMP): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Swell needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: setup
setup: $(STAMP) ## make the virtual environment with locked dependencies

.PHONY: demo
demo: setup ## run the whole system on this machine: a fleet reviews the standard library
	$(BIN)/python -m examples.review.demo

.PHONY: test
test: setup ## run all tests, as two processes at once: the fault tests mostly wait
	@mkdir -p out; \
	$(BIN)/python -m pytest tests/chaos tests/unit > out/beside.log 2>&1 & beside=$$!; trap 'kill $$beside' INT TERM; \
	$(BIN)/python -m pytest tests/conformance tests/integration; first=$$?; \
	wait $$beside; second=$$?; cat out/beside.log; exit $$((first || second))

.PHONY: test-integration
test-integration: setup ## run the tests on real servers; those in containers need an engine, SWELL_REQUIRE_ENGINE=1 demands it
	$(BIN)/python -m pytest tests/conformance tests/integration

.PHONY: test-system
test-system: setup ## run the tests of the whole deployment: they build the image and need an engine with Compose v2
	$(BIN)/python -m pytest tests/system

.PHONY: up
up: ## build and start everything in containers, and wait until it is healthy
	docker compose up --build --wait
	@docker compose ps

.PHONY: down
down: ## stop the containers; the data stays (docker compose down -v removes it)
	docker compose down

.PHONY: logs
logs: ## follow the logs of the containers
	docker compose logs --follow --tail 100

.PHONY: chaos
chaos: setup ## run the fault tests in their long sizes and print their table (SEED=... repeats a run)
	$(BIN)/python -m pytest tests/chaos tests/conformance/test_shard_interleavings.py --chaos-long $(if $(SEED),--chaos-seed $(SEED))
	$(BIN)/python -m tests.chaos.report

.PHONY: soak
soak: setup ## random faults under load: MINUTES=20, SEED=...; writes out/soak.jsonl and out/soak.svg
	$(BIN)/python -m tests.chaos.soak --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED))

.PHONY: check
check: setup lint types imports test ## all that CI runs: format, lint, types, import contract, tests

.PHONY: lint
lint: setup ## check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: types
types: setup ## check types, strictly
	$(BIN)/mypy
	$(BIN)/mypy --strict examples benchmarks docs

.PHONY: imports
imports: setup ## check that imports flow one way
	$(BIN)/lint-imports --no-cache

.PHONY: format
format: setup ## format the code and mend what lint can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: bench
bench: setup ## measure Swell beside the raw path on this machine, as docs/design.md asks (about three minutes)
	$(BIN)/python -m benchmarks.ratio

.PHONY: bench-guard
bench-guard: setup ## report throughput over the raw path; fails if it fell below benchmarks/floor.json (under a minute)
	$(BIN)/python -m benchmarks.ratio --guard

.PHONY: cost
cost: setup ## measure cost as the work grows (agents, shards, senders, bodies, workers); writes docs/cost (six minutes)
	$(BIN)/python -m benchmarks.cost

.PHONY: peers
peers: setup ## measure other systems beside Swell, each in its own environment; writes docs/peers (10 minutes)
	$(BIN)/python -m benchmarks.peers --write

.PHONY: reference
reference: setup ## write docs/reference.md from the docstrings
	$(BIN)/python docs/build_reference.py

.PHONY: lock
lock: setup ## lock the dependencies again
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.txt
	echo "hatchling>=1.27" | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 - -o requirements-build.txt

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf $(VENV) out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
