# make run    embed the demo             make test   all tests
# make plan   what a run will cost       make lint   what CI checks
# make status how far a run is           make bench  how fast it is here
PYTHON ?= python3
BIN := .venv/bin
export PYTHONPATH := $(CURDIR)/workflow_scripts

.PHONY: run test lint chaos bench status plan

run: .venv/installed
	$(BIN)/snakemake
	@$(BIN)/python -m spotesm.commands.summary results/*/summary.json

# How far the run is; WATCH=1 looks again and again.
status: .venv/installed
	@$(BIN)/python -m spotesm.commands.status $(if $(WATCH),--watch) $(if $(CHECKPOINTS),--checkpoints $(CHECKPOINTS))

# What a run will cost; CONFIG=my.yaml names another config.
plan: .venv/installed
	@$(BIN)/snakemake --quiet all $(if $(CONFIG),--configfile $(CONFIG)) -- plan_run

test: .venv/installed
	@# One worker more than cores, as the longest tests mostly wait; in the order that conftest.py chose.
	$(BIN)/pytest --numprocesses $$(($$(nproc) + 1)) --dist loadscope --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# Two hundred random faults: a long run.
chaos: .venv/installed
	CHAOS_FAULTS=200 $(BIN)/pytest -m chaos -s

bench: .venv/installed
	$(BIN)/pip install --disable-pip-version-check --quiet --requirement benchmarks/requirements.txt
	$(BIN)/python benchmarks/throughput.py --model esm2_t6_8M_UR50D --sequences 150 --worker 1500 $(BENCH)
	$(BIN)/python benchmarks/throughput.py --model esm2_t30_150M_UR50D --sequences 24 $(BENCH)
	$(BIN)/python benchmarks/throughput.py --model esm2_t30_150M_UR50D --sequences 24 --precision bfloat16 $(BENCH)
	$(BIN)/python benchmarks/memory.py

# Made again when the pins change; a second call installs nothing.
.venv/installed: envs/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spotESM needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --disable-pip-version-check --quiet --requirement envs/requirements.txt
	@# Our own modules, so that .venv/bin/python -m spotesm.commands.verify works everywhere.
	@echo $(CURDIR)/workflow_scripts > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/spotesm.pth
	@touch $@
