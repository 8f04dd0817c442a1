#!/usr/bin/env bash
# Makes the environment of this checkout: .venv with what the run or the tests need.
#
#   deploy/setup.sh [dev]      dev: the tools of the tests as well
#
# Without a GPU it installs the CPU build of torch and nothing of CUDA. A second call does nothing
# unless the requirements have changed; one that was cut off is begun again. PYTHON names the
# interpreter to build from.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
unfinished="$venv/set-up.unfinished"
extras="learner,rollout,cluster,quickstart${1:+,$1}"
started=$SECONDS

say() { printf '[set-up %3ds] %s\n' "$((SECONDS - started))" "$*"; }
fail() {
  printf 'set-up failed: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python >= 3.11 found. Fix: install one, or name it: PYTHON=/path/to/python3.12 $0"
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

# What the environment was made from; equal text means that there is nothing to do.
fingerprint() {
  printf '%s\n' "$extras" "$flavour" "$("$1" -V)"
  cksum <"$root/pyproject.toml"
  cksum <"$root/deploy/constraints-cpu.txt"
}

is_current() {
  local stamp="$venv/set-up-$1"
  [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(fingerprint "$venv/bin/python")" = "$(<"$stamp")" ]
}

# The dev environment holds everything that the plain one does.
nothing_to_do() {
  is_current "$1" && return
  [ "$1" = run ] && extras="$extras,dev" is_current dev
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# First as pip is configured here. An ordinary index has no "+cpu" wheel, and pip says so at once; uv
# knows where PyTorch keeps them.
install_cpu_torch() {
  local constraints="$root/deploy/constraints-cpu.txt" log="$venv/torch.log"
  pip install --quiet -c "$constraints" torch torchvision 2>"$log" && return
  say "pip finds no CPU build of torch; asking uv, which knows where PyTorch keeps them"
  pip install --quiet uv 2>>"$log" &&
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend=cpu \
      -c "$constraints" torch torchvision 2>>"$log" && return
  tail -n 5 "$log" >&2
  fail "no CPU build of torch was found. Fix: check the network, or set PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL to where your site keeps such builds"
}

install_the_rest() {
  local constraints=()
  if [ "$flavour" = cpu ]; then constraints=(-c "$root/deploy/constraints-cpu.txt"); fi
  pip install --quiet ${constraints[@]+"${constraints[@]}"} -e "${root}[${extras}]" && return
  fail "pip could not install the packages. Fix: mend what it says above, then run this again"
}

# Keeps a whole environment, and makes a new one where there is none or one that was cut off.
make_venv() {
  local python
  python=$(find_python)
  if [ -e "$unfinished" ]; then
    say "the last set-up was cut off: beginning again"
  elif "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    touch "$unfinished"
    return
  fi
  mkdir -p "$venv"
  touch "$unfinished"
  "$python" -m venv --clear "$venv" || fail "$python cannot make a venv. Fix: install its venv module (Debian: python3-venv)"
  touch "$unfinished"
}

make_environment() {
  say "1/4 environment in .venv"
  make_venv
  rm -f "$venv"/set-up-*
  if [ "$flavour" = cpu ]; then
    say "2/4 torch, CPU build (no NVIDIA GPU is visible): about 200 MB"
    install_cpu_torch
  else
    say "2/4 torch for the GPUs: several GB"
    pip install --quiet torch torchvision || fail "pip could not install torch. Fix: mend what it says above"
  fi
  say "3/4 the other packages: about 400 MB"
  install_the_rest
  say "4/4 check"
  check_environment
}

# PyPI has a foreign package called "common": ours must be the one that is imported.
check_environment() {
  "$venv/bin/python" - "$root" "$flavour" <<'PYTHON'
import sys
from importlib.util import find_spec
from pathlib import Path

root, flavour = Path(sys.argv[1]).resolve(), sys.argv[2]
for name in ("common", "broker", "rollout", "learner", "deploy"):
    found = find_spec(name)
    origin = Path(found.origin).resolve() if found and found.origin else None
    if origin is None or not origin.is_relative_to(root):
        sys.exit(f"package {name} comes from {origin}. Fix: remove .venv and run again")
import torch

if flavour == "cpu" and torch.version.cuda:
    sys.exit(f"torch {torch.__version__} is a CUDA build. Fix: remove .venv and run again")
PYTHON
}

if has_gpu; then flavour=gpu; else flavour=cpu; fi
stamp_name=${1:-run}
if nothing_to_do "$stamp_name"; then exit 0; fi
exec 9>"$root/.setup.lock"
if command -v flock >/dev/null; then flock 9; fi
if nothing_to_do "$stamp_name"; then exit 0; fi # another call has made it meanwhile
make_environment
fingerprint "$venv/bin/python" >"$venv/set-up-$stamp_name"
rm "$unfinished"
say "done"
