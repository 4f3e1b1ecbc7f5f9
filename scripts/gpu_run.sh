#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, from a bare source tree: GPU tests, the benchmark of single layers, that of whole
# networks, the pipeline once (train, compile, check, bench, report), what ST-3 costs in training, and CIFAR-10's table of
# methods, then one short table. JSON lines go to OUT.
#
#   scripts/gpu_run.sh [--dry-run] [--only PARTS] [OUT]
#
# --dry-run   the same on the CPU in some minutes, on tiny pictures, to rehearse: no figure of it means anything
# --only      some of: tests,layers,network,pipeline,speed,methods (default all; network and methods take longest)
# OUT         default runs/gpu-results; what is there already is kept and added to
#
# A part that fails, or takes more than LIMIT seconds (default 3600), does not stop the others; it is named at the end, and
# the exit code is 1. The same command then goes on where it stopped: what ended well is in OUT/done.txt and is not run
# again until its line there is removed.
#
# NETWORKS (resnet50:32 ...), WEIGHTS (2to4 st3_95 ...) and BENCH_OPTIONS (--no-autotune, --package) choose what
# network measures; max-autotune takes minutes a network, and its results are kept in OUT/../gpu-cache.
# DATA (CIFAR-10's folder), SEEDS (0), METHODS, SPARSITIES and BUDGET (seconds, a minute less than LIMIT) are methods': a
# second call goes on where the first one stopped, with the states in OUT/../gpu-sweep.
#
# Uses the python3 on the PATH (or PYTHON) and installs nothing: it needs torch, torchvision, numpy, msgspec, safetensors,
# click, rich, jinja2, plotly, onnx, onnxruntime and onnxscript there, for the tests pytest and hypothesis, too (PYTHONPATH
# may name a folder with what is missing).
set -euo pipefail
script=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
parts=tests,layers,network,pipeline,speed,methods
device=cuda dry='' only=$parts part=''
fail() { echo "error: $*" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) device=cpu dry=1 ;;
    --only) only=${2:-}; shift $(($# > 1)) ;;
    --part) part=$2; shift ;; # this script's own call for one part
    -*) fail "unknown option $1; see the head of $0" ;;
    *) break ;;
  esac
  shift
done
for name in ${only//,/ }; do
  case ,$parts, in *,"$name",*) ;; *) fail "--only $name is no part; the parts are $parts" ;; esac
done
[ -n "${only//,/}" ] || fail "--only names no part; the parts are $parts"
limit=${LIMIT:-3600}
[[ $limit =~ ^[1-9][0-9]*$ ]] || fail "LIMIT=$limit is no number of seconds"
cd "$(dirname "$script")/.."
out=${1:-runs/gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
cache=$(dirname "$out")/gpu-cache

# once FUNCTION WORD...: unless it has ended well before, with the same words
once() {
  local key="$device $*"
  if grep -qxF -- "$key" "$out/done.txt" 2>/dev/null; then
    echo "-- done before: $key"
    return
  fi
  "$@"
  printf '%s\n' "$key" >>"$out/done.txt"
}

tests() {
  # what cannot be imported here (a package is missing) is reported and stops no other test
  "$python" -m pytest -m gpu -p no:cacheprovider -q --continue-on-collection-errors | tee "$out/tests.txt" ||
    [ "${PIPESTATUS[0]}" = 5 ]
}

layers() {
  if [ -n "$dry" ]; then
    "$python" scripts/bench_layers_gpu.py --network resnet18 --batch 8 --dry-run "$@"
  else
    "$python" scripts/bench_layers_gpu.py --batch 32 --out "$out/single.jsonl" "$@" | tee -a "$out/table.txt"
  fi
}

network() {
  "$python" scripts/bench_gpu.py "$@" --out "$out" | tee -a "$out/table.txt"
}

networks() {
  local names=${NETWORKS:-resnet50:32 resnet50:128 resnet50:1 resnet18:32} weights=${WEIGHTS:-2to4 st3_95 st3_98}
  local options name weight
  read -r -a options <<<"${BENCH_OPTIONS:-}"
  if [ -n "$dry" ]; then names=${NETWORKS:-resnet18:1} weights=${WEIGHTS:-2to4} options=(--no-autotune); fi
  for weight in $weights; do options+=(--weights "$weight"); done
  for name in $names; do once network "$name" "${options[@]}"; done
}

pipeline() {
  local folder common bench=(--threads 1 --launches 3) target=(--target cuda)
  folder=$(dirname "$out")/gpu-pipeline/$device
  common=(--device "$device" --evaluation "$folder/evaluation" --resume)
  if [ -n "$dry" ]; then
    common+=(--epochs 0.02) bench=(--threads 1 --launches 1 --seconds 0.2 --scenario single-stream) target+=(--arch sm_90)
  else
    common+=(--epochs 1)
  fi
  "$python" -m st3 train fashion-resnet8 --method dense "${common[@]}" --out "$folder/checkpoints/dense"
  "$python" -m st3 train fashion-resnet8 --pattern 2:4 "${common[@]}" --out "$folder/checkpoints/st3-2to4-0.5"
  "$python" -m st3 compile "$folder"/checkpoints/* --out "$folder/artifacts" --batch-size 32 --backend inductor "${target[@]}"
  "$python" -m st3 inspect "$folder"/artifacts/st3-2to4-0.5/inductor-cuda-*float16-b32 | tee "$out/inspect.txt"
  if [ -n "$dry" ]; then
    # what was compiled for a GPU is refused here, in words; the rest is rehearsed with the CPU's backend
    "$python" -m st3 check "$folder/artifacts" || true
    rm -rf "$folder/artifacts"
    "$python" -m st3 compile "$folder"/checkpoints/* --out "$folder/artifacts" --batch-size 32 --backend onnxruntime
  fi
  "$python" -m st3 check "$folder/artifacts"
  [ ! -e "$out/pipeline.jsonl.part" ] || bench+=(--resume)
  "$python" -m st3 bench "$folder/artifacts" --evaluation "$folder/evaluation" "${bench[@]}" --out "$out/pipeline.jsonl"
  "$python" -m st3 report "$out/pipeline.jsonl" --out "$folder/report"
  cp "$folder/report/report.md" "$out/report.md"
}

speed() {
  "$python" -m train.speed "$@" --device "$device" --out "$out/speed.jsonl" | tee -a "$out/table.txt"
}

speeds() {
  if [ -n "$dry" ]; then
    once speed cifar10-resnet20 --methods st3,gmp --modes eager --batch-size 8 --rounds 2 --window 0.1
  else
    once speed resnet50-synthetic --methods st3 --modes eager,graph,compiled
    once speed cifar10-resnet20 --methods st3,gmp --modes eager,graph --precision fp32 --profile \
      2> >(tee -a "$out/profile.txt" >&2)
  fi
}

methods() {
  local steps=() states sweep=(cifar10-resnet20 --methods "${METHODS:-dense,gmp,ste,st3,st3-sigma,feather}"
    --seeds "${SEEDS:-0}" --sparsities "${SPARSITIES:-0.9,0.95,0.98}" --add st3:0.99)
  [ -z "${DATA:-}" ] || sweep+=(--data "$DATA")
  sweep+=(--time-budget "${BUDGET:-$((limit > 120 ? limit - 60 : limit))}")
  if [ -n "$dry" ]; then
    sweep=(fashion-resnet8 --methods dense,st3 --sparsities 0.9 --jobs 1)
    steps=(-- --max-steps 3)
  fi
  states=$(dirname "$out")/gpu-sweep
  # 3: the time was up before the last run ended. What is finished is not trained again
  local status=0
  "$python" -m st3 sweep "${sweep[@]}" --device "$device" --rows-only --out "$states" "${steps[@]}" || status=$?
  [ ! -e "$states/sweep.jsonl" ] || cp "$states/sweep.jsonl" "$states/sweep.md" "$out/"
  [ $status = 0 ] || [ $status = 3 ]
}

if [ -n "$part" ]; then
  case $part in
    tests) once tests ;;
    layers)
      if [ -n "$dry" ]; then once layers; else
        for weights in 2to4 st3_95 st3_98; do once layers --weights "$weights"; done
        once layers --weights u_90 --dtype float32
      fi
      ;;
    network) networks ;;
    pipeline) once pipeline ;;
    speed) speeds ;;
    methods) methods ;;
  esac
  exit
fi

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$cache/inductor} XDG_CACHE_HOME=${XDG_CACHE_HOME:-$cache}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$cache/triton}
"$python" - "$device" "$only" <<'PY'
import importlib.util, sys
needed = ["torch", "torchvision", "numpy", "msgspec", "safetensors", "click", "rich", "jinja2", "onnx", "onnxruntime",
          "onnxscript"]
if "tests" in sys.argv[2].split(","):
    needed += ["pytest", "hypothesis"]
if "pipeline" in sys.argv[2].split(","):
    needed.append("plotly")  # of the report alone
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"error: python3 lacks {' '.join(missing)}; install them or name a folder that holds them in PYTHONPATH")
import torch
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("error: torch finds no NVIDIA GPU; rehearse with --dry-run")
PY

title() {
  case $1 in
    tests) echo "tests that need a GPU" ;;
    layers) echo "single layers, format by format" ;;
    network) echo "whole networks" ;;
    pipeline) echo "the pipeline on $device: train, compile, check, bench, report" ;;
    speed) echo "what a step of ST-3 costs" ;;
    methods) echo "the methods side by side" ;;
  esac
}

# each part is a process of its own, so that it can be stopped, and its failure is not ours
failures=()
for name in ${only//,/ }; do
  echo "== $(title "$name")"
  timeout -k 30 "$limit" "$BASH" "$script" ${dry:+--dry-run} --part "$name" "$out" &
  running=$!
  trap 'kill -TERM "$running" 2>/dev/null; wait "$running"; exit 130' INT TERM
  status=0
  wait "$running" || status=$?
  trap - INT TERM
  case $status in
    0) ;;
    124) failures+=("$name was stopped after LIMIT=$limit seconds") ;;
    137) failures+=("$name was killed: it did not end LIMIT=$limit seconds after its start, or memory was short") ;;
    *) failures+=("$name failed with exit code $status") ;;
  esac
done

echo "== results in $out"
[ ! -e "$out/table.txt" ] || cat "$out/table.txt"
[ ! -e "$out/sweep.md" ] || cat "$out/sweep.md"
[ ${#failures[@]} = 0 ] && exit
printf 'error: %s; the same command goes on with it\n' "${failures[@]}" >&2
exit 1
