# Everything a newcomer needs: `make demo`, then `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help env env-vllm demo test check lint types slow ray vllm soak weights clean requirements

help:
	@echo "make demo   install, build a small dataset with the micro models, verify it, draw its page (under 5 minutes)"
	@echo "make test   install, then lint, types and the fast tests (under 5 minutes)"
	@echo "make check  format, then what make test does"
	@echo "make slow | ray | vllm   the longer tests; make soak: the long fault tests"

# One stamp a requirements file: the environment is made again when the pins change.
env: $(VENV)/.installed

$(VENV)/.installed: requirements-core.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet -r requirements-core.txt
	@touch $@

env-vllm: $(VENV)/.installed-vllm

$(VENV)/.installed-vllm: $(VENV)/.installed requirements-cpu.txt
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet -r requirements-cpu.txt
	@touch $@

demo: env
	$(BIN)/python -m pipelines run --run runs/demo --subsets rule general --num-prompts 48
	$(BIN)/python -m pipelines verify --run runs/demo --deep
	$(BIN)/python -m pipelines report --run runs/demo --card
	@echo "now open runs/demo/report/index.html"

test: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m pytest

check: env
	$(BIN)/ruff format .
	$(MAKE) test

slow: env
	$(BIN)/python -m pytest -m slow

ray: env
	$(BIN)/python -m pytest -m ray

vllm: env-vllm
	$(BIN)/python -m pytest -m vllm

# Pins for real: names and versions alone, no index addresses.
requirements:
	uv export --quiet --extra dev --extra gdino --no-header --no-hashes --no-annotate --no-emit-project -o requirements-core.txt
	uv export --quiet --extra dev --extra gdino --extra cpu --no-header --no-hashes --no-annotate --no-emit-project -o requirements-cpu.txt

soak: env
	$(BIN)/python -m tests.soak.kill_everything --kills 24 --out benchmarks/results/soak.json

clean:
	rm -rf $(VENV) runs
