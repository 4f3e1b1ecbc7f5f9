#!/usr/bin/env bash
# Makes the virtual environment with the locked dependencies and st3 itself. Does nothing that is done already.
# Usage: scripts/setup.sh VENV [PYTHON]
set -euo pipefail
venv=$1
python=${2:-python3}
cd "$(dirname "$0")/.."

fail() { echo "error: $*" >&2; exit 2; }

command -v "$python" >/dev/null || fail "$python was not found; install Python 3.10 to 3.13 or run make PYTHON=/path/to/python"
"$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
  fail "$("$python" --version 2>&1) is not supported; st3 needs Python 3.10 to 3.13: make PYTHON=/path/to/python"
command -v "${CXX:-g++}" >/dev/null ||
  fail "${CXX:-g++} was not found, and the native backend compiles C++; install g++ 11 or newer (Debian: apt install g++)"

if [ ! -x "$venv/bin/python" ]; then
  echo "set-up: making $venv with $("$python" --version)"
  "$python" -m venv "$venv" || fail "$python cannot make a virtual environment; on Debian: apt install python3-venv"
fi
if [ ! -x "$venv/bin/uv" ]; then
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$(cat scripts/uv-version)" ||
    fail "uv could not be installed; is the Python package registry reachable?"
fi
echo "set-up: installing the locked dependencies (the first time about 5 GB)"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -r requirements.lock ||
  fail "the locked dependencies could not be installed; is the Python package registry reachable, is there room on the disk?"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
touch "$venv/ready"
echo "set-up: done"
