#!/usr/bin/env bash
# Makes an environment of this checkout.
#
#   deploy/setup.sh            .venv: what a run needs
#   deploy/setup.sh dev        .venv: the tools of the tests as well
#   deploy/setup.sh sglang     .venv-sglang: the SGLang server, which pins packages of its own
#   deploy/setup.sh kernels    .cache/kernels: what -m kernels interprets, 0.9 GB (needs .venv)
#
# and on machines of one pool:
#
#   deploy/setup.sh broker     .venv: what the broker needs, without torch
#   deploy/setup.sh learner    .venv: what the learner's ranks need
#   deploy/setup.sh rollout    .venv: what rollout servers need, and .venv-sglang
#   deploy/setup.sh rollout without-sglang
#
# Without a GPU it installs the CPU build of torch and nothing of CUDA. A second call does nothing
# unless the requirements have changed; one that was cut off is begun again.
#
# Environment: PYTHON names the interpreter to build from. FLAVOUR=gpu or cpu says what to build for
# where this machine does not show it (an image, a login node). EXTRAS names further extras of
# pyproject.toml, with commas. GPU_PATIENCE_S: seconds that nvidia-smi may take (20).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
goal=${1:-run}
sglang_on_cpus="$root/deploy/requirements-sglang-cpu.txt"
sglang_itself="$root/deploy/requirements-sglang-gpu.txt"
kernels="$root/deploy/requirements-kernels.txt"
xgrammar=xgrammar==0.2.7 # what sglang 0.5.23 pins
gpu_patience_s=${GPU_PATIENCE_S:-20}
started=$SECONDS
gpu_says=""

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

# Whether the machine has one, whatever CUDA_VISIBLE_DEVICES leaves to this run: an environment is for
# all runs here. $gpu_says tells why nvidia-smi, which is there, shows none.
has_gpu() {
  command -v nvidia-smi >/dev/null || return 1
  local code=0
  gpu_says=$(timeout --kill-after=1 "$gpu_patience_s" nvidia-smi -L 2>&1) || code=$?
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then
    fail "nvidia-smi does not answer within $gpu_patience_s s. Fix: repair the GPU's driver, or say what to build for: FLAVOUR=gpu or FLAVOUR=cpu"
  fi
  return "$code"
}

# What pip installs for a goal, beside torch.
extras_of() {
  local kernels=""
  if [ "$flavour" = gpu ]; then kernels=,gpu; fi
  case "$1" in
    broker) echo "cluster${EXTRAS:+,$EXTRAS}" ;;
    learner) echo "learner$kernels,cluster${EXTRAS:+,$EXTRAS}" ;;
    rollout) echo "rollout,cluster${EXTRAS:+,$EXTRAS}" ;;
    run) echo "learner$kernels,rollout,cluster,quickstart${EXTRAS:+,$EXTRAS}" ;;
    dev) echo "$(extras_of run),dev" ;;
    sglang) echo "sglang,$xgrammar" ;;
  esac
}

# The environments that hold everything that a goal needs.
covered_by() {
  case "$1" in
    broker) echo broker learner rollout run dev ;;
    learner | rollout) echo "$1" run dev ;;
    run) echo run dev ;;
    *) echo "$1" ;;
  esac
}

# What a goal's environment was made from; equal text means that there is nothing to do.
fingerprint() {
  printf '%s\n' "$(extras_of "$1")" "$flavour" "$("$venv/bin/python" -V)"
  local file
  for file in "${requirements[@]}"; do cksum <"$file"; done
}

is_current() {
  local stamp="$venv/set-up-$1"
  [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(fingerprint "$1")" = "$(<"$stamp")" ]
}

nothing_to_do() {
  [ ! -e "$unfinished" ] || return 1 # another call works on it, or was cut off
  local one
  for one in $(covered_by "$goal"); do
    if is_current "$one"; then return; fi
  done
  return 1
}

# Another goal's packages stay right only if they came from the same requirements.
forget_outdated() {
  local stamp
  for stamp in "$venv"/set-up-*; do
    if ! is_current "${stamp##*/set-up-}"; then rm -f "$stamp"; fi
  done
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# First as pip is configured here. An ordinary index has no "+cpu" wheel, and pip says so at once; uv
# knows where PyTorch keeps them.
install_cpu_torch() {
  local log="$venv/torch.log"
  pip install --quiet -c "$constraints" torch torchvision 2>"$log" && return
  say "pip finds no CPU build of torch; asking uv, which knows where PyTorch keeps them"
  pip install --quiet uv 2>>"$log" &&
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend=cpu \
      -c "$constraints" torch torchvision 2>>"$log" && return
  tail -n 5 "$log" >&2
  fail "no CPU build of torch was found. Fix: check the network, or set PIP_FIND_LINKS to the folder or page where your site keeps such builds (a second index may answer for any package)"
}

install_gpu_torch() {
  pip install --quiet -c "$constraints" torch torchvision ||
    fail "pip could not install torch. Fix: correct what it says above"
}

install_ours() {
  pip install --quiet -c "$constraints" -e "${root}[${extras}]" || fail_at_pip
}

# On a CPU without its dependencies, which are CUDA's; xgrammar's is Triton.
install_sglang() {
  if [ "$flavour" = gpu ]; then
    pip install --quiet -c "$constraints" -r "$sglang_itself" || fail_at_pip
    return
  fi
  pip install --quiet -c "$constraints" -r "$sglang_on_cpus" || fail_at_pip
  pip install --quiet --no-deps -r "$sglang_itself" "$xgrammar" || fail_at_pip
}

fail_at_pip() { fail "pip could not install the packages. Fix: correct what it says above, then run this again"; }

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
  say "1/4 environment in ${venv##*/}"
  make_venv
  forget_outdated
  if [ "$goal" = broker ]; then
    say "2/4 no torch: the broker needs none"
  elif [ "$flavour" = cpu ]; then
    say "2/4 torch, CPU build ($why): about 200 MB"
    install_cpu_torch
  elif [ "$goal" = sglang ]; then
    say "2/4 torch comes with SGLang"
  else
    say "2/4 torch for the GPUs: several GB"
    install_gpu_torch
  fi
  say "3/4 $packages"
  if [ "$goal" = sglang ]; then install_sglang; else install_ours; fi
  say "4/4 check"
  if [ "$goal" != broker ]; then check_torch; fi
  if [ "$goal" = sglang ]; then check_sglang; else check_ours; fi
}

# Of one that was cut off no stamp is left.
make_kernels() {
  local folder="$root/.cache/kernels" wanted
  [ -x "$venv/bin/python" ] || fail "no .venv, whose pip gets the kernels. Fix: run $0 dev first"
  wanted=$("$venv/bin/python" -V && cksum <"$kernels")
  mkdir -p "$root/.cache"
  lock_beside "$folder"
  if [ -f "$folder/set-up" ] && [ "$(<"$folder/set-up")" = "$wanted" ]; then return; fi
  say "kernels for GPUs and Triton's interpreter"
  rm -rf "$folder"
  pip install --quiet --no-deps --target "$folder" -r "$kernels" || fail_at_pip
  printf '%s\n' "$wanted" >"$folder/set-up"
}

# Beside what is made itself, which several checkouts may share by a link.
lock_beside() {
  exec 9>"$(dirname "$(readlink -f "$1" || echo "$1")")/.setup.lock"
  if command -v flock >/dev/null; then
    flock 9 2>/dev/null || say "this file system knows no locks: run no second set-up meanwhile"
  fi
}

check_torch() {
  "$venv/bin/python" - "$flavour" "${venv##*/}" <<'PYTHON'
import sys

import torch

flavour, folder = sys.argv[1:]
if flavour == "cpu" and torch.version.cuda:
    sys.exit(f"torch {torch.__version__} is a CUDA build. Fix: remove {folder} and run again")
if flavour == "gpu" and not torch.version.cuda:
    sys.exit(
        f"torch {torch.__version__} is no CUDA build. Fix: see that pip's index and pages "
        f"(pip config list) have one, remove {folder} and run again"
    )
PYTHON
}

# With what stands in for CUDA's packages, as common/engines/sglang.py runs it.
check_sglang() (
  if [ "$flavour" = cpu ]; then
    export PYTHONPATH="$root/rollout/sglang/cpu" SGLANG_USE_CPU_ENGINE=1
  elif ! has_gpu; then
    say "no GPU here: whether SGLang can be imported shows on the machine that has one"
    return
  fi
  "$venv/bin/python" -c "import sglang.launch_server" >"$venv/check.log" 2>&1 && return
  tail -n 5 "$venv/check.log" >&2
  fail "SGLang cannot be imported. Fix: remove ${venv##*/} and run this again"
)

# PyPI has a foreign package called "common": ours must be the one that is imported.
check_ours() {
  "$venv/bin/python" - "$root" <<'PYTHON'
import sys
from importlib.util import find_spec
from pathlib import Path

root = Path(sys.argv[1]).resolve()
for name in ("common", "broker", "rollout", "learner", "deploy"):
    found = find_spec(name)
    origin = Path(found.origin).resolve() if found and found.origin else None
    if origin is None or not origin.is_relative_to(root):
        sys.exit(f"package {name} comes from {origin}. Fix: remove .venv and run again")
PYTHON
}

why="FLAVOUR=${FLAVOUR:-}"
case "${FLAVOUR:-}" in
  gpu | cpu) flavour=$FLAVOUR ;;
  "") if has_gpu; then flavour=gpu; else flavour=cpu why="no NVIDIA GPU is visible${gpu_says:+: ${gpu_says%%$'\n'*}}"; fi ;;
  *) fail "FLAVOUR=$FLAVOUR is no build. Fix: FLAVOUR=gpu or FLAVOUR=cpu" ;;
esac
constraints="$root/deploy/constraints-$flavour.txt"
case "$goal" in
  run | dev | broker | learner | rollout)
    venv="$root/.venv"
    requirements=("$root/pyproject.toml" "$constraints")
    packages="the other packages: $(if [ "$goal" = broker ]; then echo about 200 MB; else echo about 400 MB; fi)"
    ;;
  sglang)
    venv="$root/.venv-sglang"
    requirements=("$sglang_itself" "$sglang_on_cpus" "$constraints")
    packages="SGLang and its packages: $(if [ "$flavour" = cpu ]; then echo about 100 MB; else echo many GB; fi)"
    ;;
  kernels)
    venv="$root/.venv"
    make_kernels
    exit
    ;;
  *) fail "$goal is no environment. Fix: $0 [dev | sglang | kernels | broker | learner | rollout]" ;;
esac
if [ "$goal" = rollout ]; then
  case "${2:-}" in
    "") "${BASH_SOURCE[0]}" sglang ;; # an environment of its own, under the same lock
    without-sglang) ;;
    *) fail "rollout $2 is no environment. Fix: $0 rollout [without-sglang]" ;;
  esac
fi
extras=$(extras_of "$goal")
unfinished="$venv/set-up.unfinished"
if nothing_to_do; then exit 0; fi
lock_beside "$venv"
if nothing_to_do; then exit 0; fi # another call has made it meanwhile
make_environment
fingerprint "$goal" >"$venv/set-up-$goal"
rm "$unfinished"
say "done"
