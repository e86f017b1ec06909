# Everything a newcomer needs: `make demo`, then `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Many containers forbid Python to keep what it compiled; every process would then compile half a million lines again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help env env-vllm demo bootstrap test check lint types slow ray vllm soak weights digests clean requirements

help:
	@echo "make demo   install, build a small dataset with the micro models, verify it, draw its page (two minutes or three)"
	@echo "make test   install, then lint, types and the fast tests (about ten minutes)"
	@echo "make check  format, then what make test does"
	@echo "make slow | ray | vllm   the longer tests; make soak: the long fault tests"
	@echo "make weights   check the shipped weights against their digests"

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

# The VLM compares both images of a share of the pairs; of the others the shipped reflector says what is wrong. The shipped
# verifier must find the good image clearly better (docs/findings/datasets.md has what reflector and margin are worth).
ANNOTATED = --annotate --reflect.cot-share 0.3 --reflect.reflector micro/reflector
VERIFIED = $(ANNOTATED) --filter.verifier.kinds trained --filter.verifier.trained.model micro/verifier --filter.min-margin 1.5
demo: env
	$(BIN)/python -m pipelines run --run runs/demo --subsets rule general length editing $(VERIFIED) --num-prompts 32
	$(BIN)/python -m pipelines verify --run runs/demo --deep
	$(BIN)/python -m pipelines report --run runs/demo --card
	@echo "now open runs/demo/report/index.html"

# ReflectionFlow's loop (section 3.2): a VLM annotates a share in chains of thought, reflector and verifier learn from
# it, and they annotate and filter everything; blocks of images, checks and rewards are shared by both runs.
BOOTSTRAP ?= runs/bootstrap
BOOTSTRAP_RUN = --subsets rule general length editing --num-prompts 400 --annotate --reflect.cot-share 0.3
# Some 1,400 pairs are learnt by heart after 200 steps: the best evaluation's weights are kept.
BOOTSTRAP_LOOP = --loop.steps 200 --loop.evaluate-every 50 --loop.export best --optimizer.decay-steps 150
bootstrap: env
	$(BIN)/python -m pipelines run --run $(BOOTSTRAP)/share $(BOOTSTRAP_RUN)
	$(BIN)/python -m trainers reflector --data $(BOOTSTRAP)/share --out $(BOOTSTRAP)/reflector $(BOOTSTRAP_LOOP)
	$(BIN)/python -m trainers verifier --data $(BOOTSTRAP)/share --out $(BOOTSTRAP)/verifier $(BOOTSTRAP_LOOP)
	test -e $(BOOTSTRAP)/whole/run.json || $(BIN)/python -m pipelines run --run $(BOOTSTRAP)/share \
	  --fork $(BOOTSTRAP)/whole $(BOOTSTRAP_RUN) --reflect.reflector $(CURDIR)/$(BOOTSTRAP)/reflector/reflector \
	  --filter.verifier.kinds trained --filter.verifier.trained.model $(CURDIR)/$(BOOTSTRAP)/verifier/verifier --filter.min-margin 1.5
	$(BIN)/python -m pipelines resume --run $(BOOTSTRAP)/whole
	$(BIN)/python -m pipelines verify --run $(BOOTSTRAP)/whole --deep
	@echo "now open $(BOOTSTRAP)/whole/report/index.html"

# So many tests at a time, a file's all in one process: they share what a module's fixtures made. Each process takes a
# core and 1.5 GB. Tests that start clusters or vLLM have the machine to themselves.
WORKERS ?= 2
TOGETHER = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(TOGETHER)

check: env
	$(BIN)/ruff format .
	$(MAKE) test

slow: env
	$(TOGETHER) -m "slow and not (ray or vllm or gpu)"

ray: env
	$(BIN)/python -m pytest -m "ray and not vllm"

vllm: env-vllm
	$(BIN)/python -m pytest -m vllm

# Pins for real: names and versions alone, no index addresses.
requirements:
	uv export --quiet --extra dev --extra gdino --no-header --no-hashes --no-annotate --no-emit-project -o requirements-core.txt
	uv export --quiet --extra dev --extra gdino --extra cpu --no-header --no-hashes --no-annotate --no-emit-project -o requirements-cpu.txt

# The shipped weights are those that were committed; DIGESTS is written anew after a training.
weights:
	cd microworld/weights && sha256sum --quiet --check DIGESTS && echo "all weights are as shipped"

digests:
	cd microworld/weights && find * -type f ! -name DIGESTS | LC_ALL=C sort | xargs sha256sum > DIGESTS

soak: env
	$(BIN)/python -m tests.soak.kill_everything --kills 24 --out benchmarks/results/soak.json
	$(BIN)/python -m tests.soak.lose_nodes --minutes 10 --out benchmarks/results/lose_nodes.json
	$(BIN)/python -m tests.soak.pause_everything --out benchmarks/results/pause_everything.json

clean:
	rm -rf $(VENV) runs
