# make install   sets up           make test   all tests
# make run       embeds the demo   make lint   what CI checks
# make plan      what it will cost make bench  how fast it is here
# make status    how far it is     make chaos  two hundred random faults
# make acceptance    what needs a network or a GPU to be proven
PYTHON ?= python3
BIN := .venv/bin
ifneq ($(shell command -v uv),)
MAKE_VENV = uv venv --quiet --seed --clear --python $(PYTHON) .venv
PIP_INSTALL = uv pip install --quiet --python $(BIN)/python
else
MAKE_VENV = $(PYTHON) -m venv --clear .venv
PIP_INSTALL = $(BIN)/pip install --disable-pip-version-check --quiet
endif

.PHONY: install run status plan test lint chaos mutants acceptance bench

install: .venv/installed

run: .venv/installed
	$(BIN)/snakemake --logger spotesm

# How far the run is; WATCH=1 looks again and again.
status: .venv/installed
	@$(BIN)/spotesm status $(if $(WATCH),--watch)

# What a run will cost; CONFIG=my.yaml names another config.
plan: .venv/installed
	@$(BIN)/spotesm plan $(if $(CONFIG),--configfile $(CONFIG))

test: .venv/installed-tests
	@# One worker more than cores, as the longest tests mostly wait; in the order that conftest.py chose.
	$(BIN)/pytest --numprocesses $$(($$(nproc) + 1)) --dist loadscope --no-loadscope-reorder
	@# Once more as on a processor without AVX-512, which has no products of oneDNN in bfloat16.
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/pytest -m processor tests/model tests/workflow

lint: .venv/installed-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# Do the tests notice broken lines? MUTANTS="--sample 100 --seed 1"; long, goes on where it was stopped.
mutants: .venv/installed-tests
	@$(PIP_INSTALL) --requirement tests/mutants/requirements.txt
	@$(BIN)/python tests/mutants/run.py $(MUTANTS)

# Two hundred random faults: a long run.
chaos: .venv/installed-tests
	CHAOS_FAULTS=200 $(BIN)/pytest -m chaos -s

# What needs a network or a GPU: published weights, their known answer, half precision, speed.
acceptance: .venv/installed-tests
	@$(PIP_INSTALL) --requirement benchmarks/requirements.txt
	@$(BIN)/python tests/acceptance/run.py $(ACCEPTANCE)

bench: .venv/installed
	$(PIP_INSTALL) --requirement benchmarks/requirements.txt
	@# It asks for an older numpy than it needs; where it cannot be had, it is left out.
	-$(PIP_INSTALL) --no-deps esm-cpp==0.2.1
	$(BIN)/python benchmarks/throughput.py --model esm2_t6_8M_UR50D --sequences 100 --esm-cpp --worker 300 $(BENCH)
	$(BIN)/python benchmarks/throughput.py --model esm2_t30_150M_UR50D --sequences 24 $(BENCH)
	$(BIN)/python benchmarks/throughput.py --model esm2_t30_150M_UR50D --sequences 24 --precision bfloat16 --worker 50 $(BENCH)
	$(BIN)/python benchmarks/throughput.py --model esm2_t33_650M_UR50D --sequences 8 --precision bfloat16 $(BENCH)
	$(BIN)/python benchmarks/throughput.py --model esmc_300m --sequences 12 $(BENCH)
	$(BIN)/python benchmarks/throughput.py --model esmc_300m --sequences 12 --precision bfloat16 $(BENCH)
	$(BIN)/python benchmarks/operations.py --model esm2_t6_8M_UR50D --sequences 100
	$(BIN)/python benchmarks/operations.py --model esm2_t30_150M_UR50D --precision bfloat16
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/scale.py --records 200_000 --dimensions 1280
	$(BIN)/python benchmarks/start_up.py --model esm2_t33_650M_UR50D --file --sequences 4

# Made again when the pins change; a second call installs nothing.
.venv/installed: envs/requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spotESM needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	@# Snakemake calls .venv's Python by its path, unquoted, and takes braces for its own.
	@$(PYTHON) -c 'import os, re, sys; odd = re.findall(r"[^\w@%+=:,./-]", os.getcwd()); sys.exit(f"spotESM cannot run in {os.getcwd()!r}: Snakemake takes no {odd[0]!r} in its path; clone it elsewhere (data and results may lie in any folder)" if odd else 0)'
	@echo "Setting up .venv: torch and some sixty other packages. It takes a minute, or several where torch brings CUDA (3 GB) ..."
	@$(MAKE_VENV)
	@$(PIP_INSTALL) --editable .
	@touch $@
	@echo "Done. To embed proteins: $(CURDIR)/$(BIN)/spotesm embed my.fasta"

.venv/installed-tests: .venv/installed envs/requirements-test.txt
	@echo "Adding what the tests need ..."
	@$(PIP_INSTALL) --requirement envs/requirements-test.txt
	@touch $@
