# The whole pipeline. `make` trains, compiles, benches and reports; `make test` runs the tests. Both set themselves up.
#
#   make RECIPE=cifar10-resnet20 SPARSITIES="0.9 0.95" OUT=runs/mine THREADS=4
#   make DEVICE=cuda OUT=runs/gpu      trains, compiles, measures and reports on the GPU

RECIPE ?= fashion-resnet8
SPARSITIES ?= 0.8 0.9 0.95 0.98
# where training runs: cpu, cuda or auto; with cuda artifacts are compiled for the GPU and measured on it as well
DEVICE ?= cpu
# of training on a CPU: `bf16` takes 0.6 of the time where the CPU has AMX; empty for float32
PRECISION ?=
# what a GPU computes in
DTYPE ?= float16
# `float16` where this CPU computes in half precision and the compiler knows it (g++ 12): native artifacts in that as
# well; empty for none
HALF ?= $(shell { grep -qs avx512_fp16 /proc/cpuinfo && $${CXX:-g++} -mavx512fp16 -fsyntax-only -x c++ /dev/null || \
  grep -qs asimdhp /proc/cpuinfo; } 2>/dev/null && echo float16)
OUT ?= runs/$(RECIPE)
# CPU threads of training; latency is measured with one thread and with this many
THREADS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); [ $$n -lt 2 ] && echo $$n || echo 2)
# of the CPU engine's benchmark: networks of torchvision, interleaved rounds, weights whose steps are timed, options of
# `st3 compile` for the native artifacts (--no-tune)
NETWORKS ?= resnet50
ROUNDS ?= 25
STEPS ?=
NATIVE ?=
PYTHON ?= python3
VENV ?= .venv

ST3 = $(VENV)/bin/st3
comma = ,
CHECKPOINTS = $(OUT)/checkpoints
NAMES = dense $(SPARSITIES:%=st3-unstructured-%) st3-2to4-0.5 gmp-unstructured-0.95 feather-unstructured-0.98
DONE = $(NAMES:%=$(CHECKPOINTS)/%/checkpoint.json)
TRAIN = $(ST3) train $(RECIPE) --out $(@D) --evaluation $(OUT)/evaluation --device $(DEVICE) --threads $(THREADS) --resume \
  $(if $(filter cpu,$(DEVICE)),$(PRECISION:%=--precision %))
ON_GPU = $(filter cuda,$(DEVICE))
# threads say nothing of a GPU
# an artifact for a GPU takes seconds to load
BENCH_LAUNCHES = $(if $(ON_GPU),--launches 3)
BENCH_THREADS = --threads 1 $(if $(ON_GPU),,$(if $(filter-out 1,$(THREADS)),--threads $(THREADS)))
COMPILE = $(if $(ON_GPU),--target cuda --dtype $(DTYPE))
IN_HALF = --backend native --dtype $(HALF)

.DELETE_ON_ERROR:
.PHONY: all setup train compile bench report bench-cpu $(NETWORKS:%=bench-cpu-%) bench-methods bench-training bench-gpu check tables test
.PHONY: test-native wheel clean
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

$(CHECKPOINTS)/feather-unstructured-%/checkpoint.json: | $(VENV)/ready
	$(TRAIN) --method feather --sparsity $*

$(CHECKPOINTS)/st3-2to4-0.5/checkpoint.json: | $(VENV)/ready
	$(TRAIN) --method st3 --pattern 2:4

compile: $(OUT)/artifacts/checked

# rebuilds only what does not fit its checkpoint
$(OUT)/artifacts/checked: $(DONE)
	$(ST3) compile $(NAMES:%=$(CHECKPOINTS)/%) --out $(OUT)/artifacts --batch-size 1 --batch-size 32 $(COMPILE)
	$(if $(ON_GPU),,$(if $(HALF),$(ST3) compile $(NAMES:%=$(CHECKPOINTS)/%) --out $(OUT)/artifacts --batch-size 1 --batch-size 32 $(IN_HALF)))
	$(ST3) check $(OUT)/artifacts
	@touch $@

MEASURE = $(ST3) bench $(OUT)/artifacts --evaluation $(OUT)/evaluation $(BENCH_THREADS) $(BENCH_LAUNCHES) \
  --out $(OUT)/measurements.jsonl

$(OUT)/measurements.jsonl: $(OUT)/artifacts/checked
	$(MEASURE) >/dev/null

# measures again even if nothing has changed
bench: $(OUT)/artifacts/checked
	$(MEASURE)

$(OUT)/report.html: $(OUT)/measurements.jsonl
	$(ST3) report $(OUT)/measurements.jsonl --out $(OUT)

report: $(OUT)/measurements.jsonl
	$(ST3) report $(OUT)/measurements.jsonl --out $(OUT)

# runs/bench-cpu/NETWORK holds the checkpoints and artifacts, runs/bench-cpu.json (of another network than ResNet-50
# runs/bench-cpu-NETWORK.json) the rows
CPU = runs/bench-cpu
WEIGHTS = $(if $(filter resnet50,$*),dense st3_80 st3_90 st3_95 u_90,dense u_90)
COMPILER = $(wildcard compile/*.py compile/*/*.py compile/native/kernels/*.h)

bench-cpu: $(NETWORKS:%=bench-cpu-%)

# measures again even if nothing has changed
$(NETWORKS:%=bench-cpu-%): bench-cpu-%: $(CPU)/%/artifacts/compiled.json
	$(VENV)/bin/python -m bench.cpu $(CPU)/$*/artifacts --evaluation $(CPU)/$*/evaluation \
	  --compiled $< $(if $(HALF),--compiled $(basename $<)-half.json) \
	  --rounds $(ROUNDS) $(STEPS:%=--steps %) --out runs/bench-cpu$(patsubst %,-%,$(filter-out resnet50,$*)).json

$(CPU)/%/checkpoints/complete: train/untrained.py train/densities.py | $(VENV)/ready
	$(VENV)/bin/python -m train.untrained $* $(WEIGHTS) --out $(@D)
	@touch $@

# of the dense engines only the one that is the reference needs the sparse weights; the compiler's own code is new
# each time it has changed
.PRECIOUS: $(CPU)/%/checkpoints/complete $(CPU)/%/artifacts/compiled.json
$(CPU)/%/artifacts/compiled.json: $(CPU)/%/checkpoints/complete $(COMPILER)
	$(ST3) compile $(<D)/dense --out $(@D) --batch-size 1 --batch-size 16 --backend onnxruntime \
	  $(if $(filter resnet50,$*),--backend inductor)
	$(ST3) compile $(patsubst %,$(<D)/%,$(filter-out dense,$(WEIGHTS))) --out $(@D) --backend onnxruntime
	$(ST3) compile $(WEIGHTS:%=$(<D)/%) --out $(@D) --batch-size 1 --batch-size 16 --backend native $(NATIVE) --force --json >$@.part
	$(if $(HALF),$(ST3) compile $(WEIGHTS:%=$(<D)/%) --out $(@D) --batch-size 1 --batch-size 16 $(IN_HALF) $(NATIVE) --force --json \
	  >$(basename $@)-half.json)
	@mv $@.part $@

# methods side by side, three seeds; some 40 minutes on two cores, goes on where it was stopped
bench-methods: | $(VENV)/ready
	$(ST3) sweep fashion-resnet8 --methods dense,st3,ste,gmp,feather --sparsities 0.95,0.98 --seeds 0,1,2 --device $(DEVICE) \
	  --out runs/bench-methods

# what a method costs beside a dense step
bench-training: | $(VENV)/ready
	$(VENV)/bin/python -m train.speed $(if $(ON_GPU),resnet50-synthetic --modes eager$(comma)compiled,cifar10-resnet20 --modes eager) \
	  --methods st3 --device $(DEVICE) --out runs/bench-training.jsonl

# GPU tests, layers, whole networks and the pipeline, on the machine with the GPU
bench-gpu: | $(VENV)/ready
	PYTHON=$(VENV)/bin/python scripts/gpu_run.sh runs/gpu-results

check: $(VENV)/ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy scripts
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m bench.published README.md --check

# README's result tables, from bench/results
tables: | $(VENV)/ready
	$(VENV)/bin/python -m bench.published README.md

test: $(VENV)/ready
	$(VENV)/bin/pytest -n 2 --dist worksteal

# the generated code under AddressSanitizer, UBSan and ThreadSanitizer, on an emulated aarch64, and of 200 random graphs:
# some minutes
test-native: $(VENV)/ready
	$(VENV)/bin/pytest -n 2 --dist worksteal tests/native tests/compile/test_random_graphs.py -m "exhaustive or not exhaustive"

# dist/st3-*.whl, and dist/st3_runtime-*.whl with the runtime alone
wheel: $(VENV)/ready
	$(VENV)/bin/python -m hatchling build -t wheel
	cd packaging/st3-runtime && $(abspath $(VENV))/bin/python -m hatchling build -t wheel -d $(CURDIR)/dist

clean:
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
