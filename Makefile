# The whole pipeline. `make` trains, compiles, benches and reports; `make test` runs the tests. Both set themselves up.
#
#   make RECIPE=cifar10-resnet20 SPARSITIES="0.9 0.95" DEVICE=cuda OUT=runs/mine THREADS=4

RECIPE ?= fashion-resnet8
SPARSITIES ?= 0.8 0.9 0.95 0.98
# where training runs: cpu, cuda or auto
DEVICE ?= cpu
OUT ?= runs/$(RECIPE)
# CPU threads of training; latency is measured with one thread and with this many
THREADS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); [ $$n -lt 2 ] && echo $$n || echo 2)
PYTHON ?= python3
VENV ?= .venv

ST3 = $(VENV)/bin/st3
CHECKPOINTS = $(OUT)/checkpoints
NAMES = dense $(SPARSITIES:%=st3-unstructured-%) st3-2to4-0.5 gmp-unstructured-0.95
DONE = $(NAMES:%=$(CHECKPOINTS)/%/checkpoint.json)
TRAIN = $(ST3) train $(RECIPE) --out $(@D) --evaluation $(OUT)/evaluation --device $(DEVICE) --threads $(THREADS) --resume
BENCH_THREADS = --threads 1 $(if $(filter-out 1,$(THREADS)),--threads $(THREADS))

.DELETE_ON_ERROR:
.PHONY: all setup train compile bench report check test clean
# one training run, compilation or measurement at a time, whatever -j says: they use all cores themselves
.NOTPARALLEL:

all: $(OUT)/report.html

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml scripts/setup.sh
	@scripts/setup.sh $(VENV) $(PYTHON)

train: $(DONE)

$(CHECKPOINTS)/dense/checkpoint.json: | $(VENV)/ready
	$(TRAIN) --method dense

$(CHECKPOINTS)/st3-unstructured-%/checkpoint.json: | $(VENV)/ready
	$(TRAIN) --method st3 --sparsity $*

$(CHECKPOINTS)/gmp-unstructured-%/checkpoint.json: | $(VENV)/ready
	$(TRAIN) --method gmp --sparsity $*

$(CHECKPOINTS)/st3-2to4-0.5/checkpoint.json: | $(VENV)/ready
	$(TRAIN) --method st3 --pattern 2:4

compile: $(OUT)/artifacts/checked

# rebuilds only what does not fit its checkpoint
$(OUT)/artifacts/checked: $(DONE)
	$(ST3) compile $(NAMES:%=$(CHECKPOINTS)/%) --out $(OUT)/artifacts --batch-size 1 --batch-size 32
	$(ST3) check $(OUT)/artifacts
	@touch $@

MEASURE = $(ST3) bench $(OUT)/artifacts --evaluation $(OUT)/evaluation $(BENCH_THREADS) --out $(OUT)/measurements.jsonl

$(OUT)/measurements.jsonl: $(OUT)/artifacts/checked
	$(MEASURE) >/dev/null

# measures again even if nothing has changed
bench: $(OUT)/artifacts/checked
	$(MEASURE)

$(OUT)/report.html: $(OUT)/measurements.jsonl
	$(ST3) report $(OUT)/measurements.jsonl --out $(OUT)

report: $(OUT)/measurements.jsonl
	$(ST3) report $(OUT)/measurements.jsonl --out $(OUT)

check: $(VENV)/ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: $(VENV)/ready
	$(VENV)/bin/pytest -n 2 --dist worksteal

clean:
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
