# fairtune from a clone. `make help` lists the targets; the variables that can be set:
#   PYTHON=python3.12     interpreter that makes the environment (3.11 or newer)
#   VENV=.venv            folder of the environment; VENV= (empty) uses the current one
#   PIP_ARGS=...          options for every pip install, e.g. another index or a constraints file
#   PYTEST_ARGS=...       options for pytest
#   BENCH_ARGS=...        options for the benchmark, e.g. --weights FILE
#   SOAK_ARGS=...         options for the soak, e.g. --seconds 600 --seed 7
#   QUICK=1               a quickstart or bench of a few minutes at most, to check an installation

.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: help install quickstart test test-slow lint format bench bench-loop bench-whole bench-cluster soak clean

PYTHON = python3
VENV = .venv
PIP_ARGS =
PYTEST_ARGS =
BENCH_ARGS =
SOAK_ARGS =
QUICK =

PY := $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
BIN := $(if $(VENV),$(VENV)/bin,$(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("scripts"))' 2>/dev/null))

# A stamp says: this extra, of this pyproject.toml and version, went into this environment to the end.
SUM := $(shell cat pyproject.toml fairtune/__init__.py | cksum | cut -d ' ' -f 1)
CURRENT := $(if $(VENV),,$(shell $(PYTHON) -c 'import sys; print(sys.prefix)' 2>/dev/null | cksum | cut -d ' ' -f 1))
STAMPS := $(if $(VENV),$(VENV)/.fairtune,.venv-stamps/$(CURRENT))
installed = $(STAMPS)/$(1)-$(SUM)

BROUGHT_base := base
BROUGHT_test := base test
BROUGHT_dev := base test dev

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(call installed,base) ## make the environment and install fairtune into it

STUDY = quickstart$(if $(QUICK),-quick)
SMALL = $(if $(QUICK),--name $(STUDY) --set budget.trials=3 --set recipe.optim.epochs=1 \
  --set baselines.lr_points=1 --set confirm.top=1)
quickstart: install ## search, retrain and test the pick, write the report, on the shipped study
	$(BIN)/fairtune search studies/quickstart.yaml $(SMALL)
	$(BIN)/fairtune finetune --study $(STUDY) --seeds $(if $(QUICK),1,2)
	$(BIN)/fairtune report $(STUDY)

test: $(call installed,test) ## every quick test, on two processes
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

test-slow: $(call installed,test) ## the tests that take longer than about five seconds each, on three processes: many of them wait
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 3 -m slow $(PYTEST_ARGS)

lint: $(call installed,dev) ## style, format, types and the order of the rooms
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(BIN)/lint-imports

format: $(call installed,dev) ## rewrite the files in the one format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(call installed,test) ## measure the speed on this machine (ten minutes), into bench.json
	$(PY) tests/bench/run.py $(if $(QUICK),--quick) $(BENCH_ARGS)

bench-loop: $(call installed,test) ## measure the inner loop against a plain one, into loop.json
	$(PY) tests/bench/loop.py $(if $(QUICK),--quick --rounds 1) $(BENCH_ARGS)

bench-whole: $(call installed,test) ## measure whole jobs against a plain loop (45 minutes; needs --weights), into whole.json
	$(PY) tests/bench/whole.py $(if $(QUICK),--quick) $(BENCH_ARGS)

bench-cluster: $(call installed,test) ## measure many workers on one PostgreSQL (15 minutes), into cluster.json
	$(PY) tests/bench/cluster.py $(if $(QUICK),--quick) $(BENCH_ARGS)

soak: $(call installed,test) ## an hour of random faults on workers and database, then every rule of a study
	$(PY) tests/faults/soak.py $(if $(QUICK),--seconds 60) $(SOAK_ARGS)

clean: ## remove what builds and checks left; keeps the environment and all results
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find fairtune tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/%-$(SUM):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "fairtune needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@test -z "$(VENV)" || $(PY) -m pip --version >/dev/null 2>&1 || { \
	  echo "Making the environment in $(VENV)"; $(PYTHON) -m venv "$(VENV)"; }
	@$(PY) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' || { \
	  echo "About to download PyTorch with the libraries it brings: 3 to 6 GB, several minutes, once."; \
	  echo "A smaller build for machines without accelerator: install it first, or name it with PIP_ARGS."; }
	$(PY) -m pip install $(PIP_ARGS) -e '$(if $(filter base,$*),.,.[$*])'
	@mkdir -p $(STAMPS)
	@rm -f $(foreach extra,$(BROUGHT_$*),$(STAMPS)/$(extra)-*)
	@touch $(foreach extra,$(BROUGHT_$*),$(call installed,$(extra)))
