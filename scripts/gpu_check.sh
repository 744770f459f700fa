#!/usr/bin/env bash
# Check what only a GPU shows, in at most eight minutes, without a network; writes one JSON file. Without a GPU: on the CPU, small.
# usage: scripts/gpu_check.sh [--wheels DIR] [--json FILE] [--minutes N] [--only CHECK ...] [--small | --full]
# PYTHON names the interpreter that has torch (default: python3). scripts/gpu_check/wheels.txt says how to fill DIR.
set -euo pipefail

fail() { echo "gpu_check: $1" >&2; echo "  remedy: $2" >&2; exit 2; }

wheels= minutes=8 previous=
for argument in "$@"; do
  case "$previous" in --wheels) wheels=$(realpath -- "$argument") ;; --minutes) minutes=$argument ;; esac
  case "$argument" in --wheels=*) wheels=$(realpath -- "${argument#*=}") ;; --minutes=*) minutes=${argument#*=} ;; esac
  previous=$argument
done
repository=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
"$python" -W ignore -c 'import torch' 2>/dev/null || fail "$python has no torch" "set PYTHON to the interpreter that has it"

if [ -n "$wheels" ]; then
  [ -d "$wheels" ] || fail "--wheels: $wheels is no directory" "collect wheels there (scripts/gpu_check/wheels.txt says how)"
  place=$(mktemp -d)
  trap 'rm -rf "$place"' EXIT
  "$python" -m venv --without-pip --system-site-packages "$place/venv" || fail "no venv can be made" "install Python's venv module"
  # An interpreter that is itself a venv's hands on its base's packages alone: name the folders where it finds its own.
  "$python" -W ignore -c 'import site, torch, pathlib; print(*dict.fromkeys([*site.getsitepackages(), str(pathlib.Path(torch.__file__).parents[1])]), sep="\n")' \
    > "$("$place/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/theirs.pth"
  # The list names all that is needed beside torch, so torch's own dependencies are left as they are. The newer of two versions wins.
  "$python" -m pip --python "$place/venv/bin/python" --disable-pip-version-check --quiet install --no-deps --upgrade \
    --no-index --find-links "$wheels" --requirement "$repository/scripts/gpu_check/wheels.txt" ||
    fail "the wheels in $wheels do not suffice (pip's message is above)" "carry what is missing, for this Python and processor"
  python=$place/venv/bin/python
fi

export PYTHONPATH="$repository:$repository/cli${PYTHONPATH:+:$PYTHONPATH}"
# One that hangs where nothing can be stopped any more (a driver) must not keep the machine.
seconds=$("$python" -c 'import sys; print(int(float(sys.argv[1]) * 60) + 15)' "$minutes")
timeout --kill-after=5 "$seconds" "$python" -m scripts.gpu_check "$@" --spent-s "$SECONDS"
