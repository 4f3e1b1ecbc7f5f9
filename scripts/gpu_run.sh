#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, from a bare source tree: GPU tests, a training run of each kind on the GPU, compiled
# and checked, then one short table. JSON lines go to OUT (default: gpu-results).
#
#   scripts/gpu_run.sh [--dry-run] [OUT]     --dry-run: the same on the CPU in a minute, to rehearse
#
# Uses the python3 on the PATH and installs nothing: it needs torch, torchvision, numpy, msgspec, safetensors, click,
# rich, onnx, onnxruntime and onnxscript there (PYTHONPATH may name a folder with what is missing).
set -euo pipefail
cd "$(dirname "$0")/.."
device=cuda epochs=()
if [ "${1:-}" = --dry-run ]; then device=cpu epochs=(--epochs 0.02); shift; fi
out=${1:-gpu-results}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
rm -rf "$out"; mkdir -p "$out"

"$python" - "$device" <<'PY'
import importlib.util, sys
missing = [n for n in ("torch", "torchvision", "numpy", "msgspec", "safetensors", "click", "rich", "onnxruntime", "onnxscript")
           if importlib.util.find_spec(n) is None]
if missing:
    sys.exit(f"error: python3 lacks {' '.join(missing)}; install them or name a folder that holds them in PYTHONPATH")
import torch
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("error: torch finds no NVIDIA GPU; rehearse with --dry-run")
PY

echo "== tests that need a GPU"
"$python" -m pytest -m gpu -p no:cacheprovider || [ $? = 5 ]

echo "== training on $device"
for run in "dense" "st3 --sparsity 0.95" "st3 --pattern 2:4" "gmp --sparsity 0.95"; do
  # shellcheck disable=SC2086 # the words of $run are options
  "$python" -m train fashion-resnet8 --method $run --device "$device" "${epochs[@]}" --json \
    --out "$out/checkpoints/$(echo "$run" | tr -d ' -' | tr ':' 'x')" --evaluation "$out/evaluation" >> "$out/train.jsonl"
done

echo "== compiling and checking what was trained"
"$python" -m st3 compile "$out"/checkpoints/* --out "$out/artifacts" --backend native --backend onnxruntime
"$python" -m st3 check "$out/artifacts"

"$python" - "$out/train.jsonl" <<'PY'
import json, sys
import torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU (rehearsal, no figure to keep)"
print(f"== {name}, torch {torch.__version__}")
print(f"{'method':8} {'pattern':13} {'sparsity':>8} {'top-1':>7} {'seconds':>8}")
for line in open(sys.argv[1]):
    row = json.loads(line)
    print(f"{row['method']:8} {row['pattern']:13} {row['sparsity']:8.4f} {row['accuracy']:7.4f} {row['train_seconds']:8.1f}")
PY
