#!/usr/bin/env bash
# Finds the project's Python; the work is done by `python -m benchmarks`, which sets up the peers' own environment.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

python=${CONDA_PREFIX:-}/bin/python # an activated environment that holds what run_all.sh asks of one
"$python" -c 'import sys; from importlib.util import find_spec as has
sys.exit(not all(map(has, ["torch", "papermill", "snakemake", "safetensors"])))' 2>/dev/null || python=$root/.venv/bin/python
[ -x "$python" ] || "$root/run_all.sh" lab --version >&2 # makes .venv
exec "$python" -m benchmarks "$@"
