#!/usr/bin/env bash
# Sets up and tests: tests/run.sh [--setup-only] [pytest arguments ...]
# Without arguments: the default suite, in three processes. -m smoke runs the core of every package in
# less than a minute, -m slow the long tests, -m '' all of them, VISION_OPD_TESTS=full those at their
# full size (tests/repetitions.py).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/deploy/setup.sh" dev
if [ "${1:-}" = --setup-only ]; then exit 0; fi
cd "$root"
if [ $# = 0 ]; then
  set -- -q -n 3 --dist worksteal --durations 10
  export OMP_NUM_THREADS=1 # the processes share the cores
fi
exec .venv/bin/python -m pytest "$@"
