#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, from a bare source tree: GPU tests, the benchmark of single layers, that of whole
# networks, the pipeline once (train, compile, check, bench, report), what ST-3 costs in training, and CIFAR-10's table of
# methods, then one short table. JSON lines go to OUT.
#
#   scripts/gpu_run.sh [--dry-run] [--only PARTS] [OUT]
#
# --dry-run   the same on the CPU in a minute or two, on tiny pictures, to rehearse: no figure of it means anything
# --only      some of: tests,layers,network,pipeline,speed,methods (default all; network and methods take longest)
# OUT         default gpu-results; what is there already is kept and added to
#
# NETWORKS (resnet50:32 ...), WEIGHTS (2to4 st3_95 ...) and BENCH_OPTIONS (--no-autotune, --package) choose what
# network measures; max-autotune takes minutes a network, and its results are kept in $OUT/../gpu-cache.
# DATA (CIFAR-10's folder), SEEDS (0), METHODS, SPARSITIES and BUDGET (seconds) are methods': a second call goes on where the
# first one stopped, with the states in $OUT/../gpu-sweep.
#
# Uses the python3 on the PATH and installs nothing: it needs torch, torchvision, numpy, msgspec, safetensors, click,
# rich, jinja2, plotly, onnx, onnxruntime and onnxscript there (PYTHONPATH may name a folder with what is missing).
set -euo pipefail
cd "$(dirname "$0")/.."
device=cuda dry='' only=tests,layers,network,pipeline,speed,methods
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) device=cpu dry=1 ;;
    --only) only=$2; shift ;;
    -*) echo "error: unknown option $1; see the head of $0" >&2; exit 2 ;;
    *) break ;;
  esac
  shift
done
for part in ${only//,/ }; do
  case $part in
    tests | layers | network | pipeline | speed | methods) ;;
    *) echo "error: --only $part is no part; the parts are tests,layers,network,pipeline,speed,methods" >&2; exit 2 ;;
  esac
done
out=${1:-gpu-results}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
cache=$(dirname "$out")/gpu-cache
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$cache/inductor} XDG_CACHE_HOME=${XDG_CACHE_HOME:-$cache}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$cache/triton}
wants() { case ",$only," in *",$1,"*) return 0 ;; *) return 1 ;; esac; }

"$python" - "$device" <<'PY'
import importlib.util, sys
needed = ("torch", "torchvision", "numpy", "msgspec", "safetensors", "click", "rich", "jinja2", "plotly", "onnxruntime",
          "onnxscript")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"error: python3 lacks {' '.join(missing)}; install them or name a folder that holds them in PYTHONPATH")
import torch
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("error: torch finds no NVIDIA GPU; rehearse with --dry-run")
PY

if wants tests; then
  echo "== tests that need a GPU"
  "$python" -m pytest -m gpu -p no:cacheprovider -q | tee "$out/tests.txt" || [ "${PIPESTATUS[0]}" = 5 ]
fi

if wants layers; then
  echo "== single layers, format by format"
  if [ -n "$dry" ]; then
    "$python" scripts/bench_layers_gpu.py --network resnet18 --batch 8 --dry-run
  else
    layers() { "$python" scripts/bench_layers_gpu.py --batch 32 --out "$out/single.jsonl" "$@" | tee -a "$out/table.txt"; }
    layers --weights 2:4 st3_95 st3_98
    layers --weights u_90 --dtype float32
  fi
fi

if wants network; then
  echo "== whole networks"
  if [ -n "$dry" ]; then
    networks=${NETWORKS:-resnet18:1} weights=${WEIGHTS:-2to4} options=(--no-autotune)
  else
    networks=${NETWORKS:-resnet50:32 resnet50:128 resnet50:1 resnet18:32} weights=${WEIGHTS:-2to4 st3_95 st3_98}
    read -r -a options <<<"${BENCH_OPTIONS:-}"
  fi
  # shellcheck disable=SC2086 # lists of words
  "$python" scripts/bench_gpu.py $networks $(printf -- '--weights %s ' $weights) --out "$out" "${options[@]}" |
    tee -a "$out/table.txt"
fi

if wants pipeline; then
  echo "== the pipeline on $device: train, compile, check, bench, report"
  run=$(mktemp -d)
  trap 'rm -rf "$run"' EXIT
  epochs=(--epochs 1) target=(--target cuda) bench=(--threads 1)
  if [ -n "$dry" ]; then
    epochs=(--epochs 0.02) target=(--target cuda --arch sm_90) bench=(--threads 1 --seconds 0.2)
  fi
  common=(--device "$device" "${epochs[@]}" --evaluation "$run/evaluation")
  "$python" -m st3 train fashion-resnet8 --method dense "${common[@]}" --out "$run/checkpoints/dense"
  "$python" -m st3 train fashion-resnet8 --pattern 2:4 "${common[@]}" --out "$run/checkpoints/st3-2to4-0.5"
  "$python" -m st3 compile "$run"/checkpoints/* --out "$run/artifacts" --batch-size 32 --backend inductor "${target[@]}"
  "$python" -m st3 inspect "$run/artifacts/st3-2to4-0.5/inductor-cuda-float16-b32" | tee "$out/inspect.txt"
  if [ -n "$dry" ]; then
    # what was compiled for a GPU is refused here, in words; the rest is rehearsed with the CPU's backend
    "$python" -m st3 check "$run/artifacts" || true
    rm -rf "$run/artifacts"
    "$python" -m st3 compile "$run"/checkpoints/* --out "$run/artifacts" --batch-size 32 --backend onnxruntime
  fi
  "$python" -m st3 check "$run/artifacts"
  "$python" -m st3 bench "$run/artifacts" --evaluation "$run/evaluation" "${bench[@]}" --out "$out/pipeline.jsonl"
  "$python" -m st3 report "$out/pipeline.jsonl" --out "$run/report"
  cp "$run/report/report.md" "$out/report.md"
fi

if wants speed; then
  echo "== what a step of ST-3 costs"
  speed() { "$python" -m train.speed "$@" --device "$device" --out "$out/speed.jsonl" | tee -a "$out/table.txt"; }
  if [ -n "$dry" ]; then
    speed cifar10-resnet20 --methods st3,gmp --modes eager --batch-size 8 --rounds 2 --window 0.1
  else
    speed resnet50-synthetic --methods st3 --modes eager,graph,compiled
    speed cifar10-resnet20 --methods st3,gmp --modes eager,graph --precision fp32 --profile 2> >(tee "$out/profile.txt" >&2)
  fi
fi

if wants methods; then
  echo "== the methods side by side"
  sweep=(cifar10-resnet20 --methods "${METHODS:-dense,gmp,ste,st3,st3-sigma,feather}" --seeds "${SEEDS:-0}"
    --sparsities "${SPARSITIES:-0.9,0.95,0.98}" --add st3:0.99)
  [ -z "${DATA:-}" ] || sweep+=(--data "$DATA")
  [ -z "${BUDGET:-}" ] || sweep+=(--time-budget "$BUDGET")
  steps=()
  if [ -n "$dry" ]; then
    sweep=(fashion-resnet8 --methods dense,st3 --sparsities 0.9 --jobs 1)
    steps=(-- --max-steps 3)
  fi
  states=$(dirname "$out")/gpu-sweep
  # 3: the time was up before the last run ended
  "$python" -m st3 sweep "${sweep[@]}" --device "$device" --rows-only --out "$states" "${steps[@]}" || [ $? = 3 ]
  cp "$states/sweep.jsonl" "$out/sweep.jsonl"
  cat "$states/sweep.md" >>"$out/table.txt"
fi

echo "== results in $out"
[ ! -e "$out/table.txt" ] || cat "$out/table.txt"
