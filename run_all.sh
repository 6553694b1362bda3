#!/usr/bin/env bash
# Sets the project up (once) and runs it. The work is done by `python -m lib run`; this file only finds its Python.
set -eu

usage() {
  cat <<'TEXT'
./run_all.sh [options] [notebook ...]   run the notebooks (all of them if none is named) and write the report
./run_all.sh lab [jupyter arguments]    open JupyterLab on the notebook start.ipynb
./run_all.sh look SOURCE ...            look at any network, next to normal and robust references: docs/look.md
./run_all.sh compare RUN [OTHER]        compare the claims of results/RUN with the published ones or another run's;
                                        --page also writes them claim by claim as a page
./run_all.sh verify [FOLDER]            compute the verdicts of a results folder again from its files
./run_all.sh again KEY ...              make single networks of a profile and their accuracies again, by recipe key
./run_all.sh store [show [--all]]       show what results/store keeps of networks and outcomes
./run_all.sh store prune                delete what no profile needs
./run_all.sh store export FILE.tar      write the store into a file; store import FILE.tar reads it
./run_all.sh test [pytest arguments]    check the code: ruff and the tests (the slow ones: -m slow)
./run_all.sh publish RUN [--yes]        put the report of results/RUN under results/reference
./run_all.sh freeze --profile NAME       draw seeds and test images of a run before it is published: docs/freezing.md
./run_all.sh new-paper NAME             write the skeleton of a further paper
./run_all.sh index FOLDER               write the index page of a run's folder again
./run_all.sh readme                     write the published pages and the tables of README.md again
./run_all.sh settings                   write docs/settings.md again

  --profile NAME   how big: test, smoke (the default), laptop, gpu, paper or imagenet
  -p name=value    override a parameter, e.g. -p epochs=4 (may be given more than once)
  --seeds N        repeat every experiment with N seeds
  --jobs N         run up to N jobs at once (one on each GPU or, without one, on each core)
  --slurm          run on a cluster, as configs/slurm/config.yaml says: docs/scale.md
  --gpus N|IDS     use so many GPUs, or these, such as 0,3 (all that are seen)
  --dry-run        print what would be done and what it costs, do nothing
  --on NAME        with --dry-run or --rehearse: the price on an h200, h100, a100 or 4090
  --all            with --dry-run: a line for every training and measurement
  --rehearse       run every kind of work in miniature on made-up data, and report
  --yes            start a profile that is made for a GPU on a CPU
  --help           this text

Notebooks: stitching, representation_similarity, perceptually_aligned_gradients, off_manifold_robustness, harp_pruning,
compact_robust_pruning, across_papers. Each command tells its own options: ./run_all.sh store --help
The report is results/<profile>/index.html. Data are looked for under data/, or in the folder that REPRO_DATA names.
The first call makes .venv and installs requirements.txt there; an activated conda environment is used instead.
TEXT
}

die() {
  echo "run_all.sh: $1" >&2
  exit "${2:-1}"
}

# A typing error is told before minutes of installation; the values are checked by lib.
check_options() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage; exit 0 ;;
      -profile* | -seeds* | -jobs* | -gpus* | -slurm* | -dry*) die "unknown option '$1': write -$1, with two dashes." 2 ;;
      --profile | --seeds | --jobs | --gpus | --on | -p) [ $# -ge 2 ] || die "$1 needs a value: ./run_all.sh --help shows how." 2; shift ;;
      --profile=* | --seeds=* | --jobs=* | --gpus=* | --on=* | -p?* | --dry-run | --rehearse | --slurm | --all | --yes) ;;
      -*) die "unknown option '$1': ./run_all.sh --help lists the options." 2 ;;
    esac
    shift
  done
}

find_python() {
  for python in python3.12 python3.11 python3.13 python3 python; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
  done
  die "Python 3.11 or newer is needed and none was found: install one (python.org, your package manager or conda)."
}

# Sets $python to the interpreter of an activated conda environment that holds the packages, if there is one.
use_conda() {
  [ -n "${CONDA_PREFIX:-}" ] || return 1
  python=$CONDA_PREFIX/bin/python
  "$python" -c 'import sys; from importlib.util import find_spec as has
sys.exit(not (sys.version_info >= (3, 11) and all(map(has, ["torch", "papermill", "snakemake", "safetensors"]))))' 2>/dev/null && return
  [ "${CONDA_DEFAULT_ENV:-}" != robust-representations ] ||
    die "the conda environment lacks packages: run 'conda env update -f environment.yml'."
  return 1
}

# Sets $python to .venv's, after installing requirements.txt there unless .venv/installed says that it is.
use_venv() {
  local wanted free
  wanted=$({ sha256sum || shasum -a 256; } 2>/dev/null <requirements.txt | cut -c1-64)
  python=.venv/bin/python
  [ -x $python ] && [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ] && return
  find_python
  free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1024 / 1024)}')
  [ "$free" -ge 8 ] || die "installing needs 8 GB of free disk and $PWD has $free GB: make room or move the project."
  echo "Installing the packages of requirements.txt into .venv (only this once; some minutes) ..." >&2
  [ -x .venv/bin/python ] || rm -rf .venv # the Python it was made from is gone
  mkdir -p .venv && rm -f .venv/installed
  install_packages "$python" >.venv/install.log 2>&1 ||
    die "the packages could not be installed: check the network and run this again (log: $PWD/.venv/install.log)."
  python=.venv/bin/python
  echo "$wanted" >.venv/installed
}

install_packages() {
  if command -v uv; then
    uv venv --allow-existing --python "$1" .venv && uv pip install --python .venv/bin/python -r requirements.txt
  else
    "$1" -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
  fi
}

case ${1:-} in
  help) usage; exit 0 ;;
  run) shift; check_options "$@" ;;
  test | lab | look | again | compare | publish | freeze | store | verify | new-paper | index | readme | settings) ;;
  *) check_options "$@" ;;
esac
for name in REPRO_DATA REPRO_RESULTS REPRO_STORE REPRO_SLURM; do # relative to the caller's folder
  case ${!name:-/} in /*) ;; *) export "$name=$PWD/${!name}" ;; esac
done
if [ "${1:-}" = store ] && [ $# -ge 3 ]; then # so is the file of export and import
  case $3 in /*) ;; *) set -- store "$2" "$PWD/$3" "${@:4}" ;; esac
fi
export REPRO_CALLED_FROM="$PWD" # paths that `look` is given are relative to it
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
use_conda || use_venv

case ${1:-} in
  test)
    shift
    status=0
    "$python" -m ruff check . || status=1
    # two tests at a time where there are two cores; -n 0 for one after the other
    "$python" -m pytest -n auto --maxprocesses 2 --dist worksteal "$@" || status=1
    exit $status
    ;;
  lab)
    shift
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # notebooks import lib
    # at the root, on the start notebook, with the settings in configs/jupyterlab (no question about news); notebooks are
    # saved without outputs, which are no part of the project
    exec "$python" -m jupyterlab --ServerApp.root_dir="$PWD" --LabApp.default_url=/lab/tree/start.ipynb \
      --LabApp.app_settings_dir="$PWD/configs/jupyterlab" \
      --FileContentsManager.pre_save_hook=lib.lab.without_outputs --KernelManager.transport_encryption=auto "$@"
    ;;
  look | again | compare | publish | freeze | store | verify | new-paper | index | readme | settings) exec "$python" -m lib "$@" ;;
  *) exec "$python" -m lib run "$@" ;;
esac
