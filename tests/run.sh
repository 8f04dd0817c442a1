#!/usr/bin/env bash
# Sets up and tests: tests/run.sh [--setup-only] [pytest arguments ...]
# Without arguments: the default suite. -m slow runs the long tests, -m '' runs all of them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/deploy/setup.sh" dev
if [ "${1:-}" = --setup-only ]; then exit 0; fi
cd "$root"
exec .venv/bin/python -m pytest "$@"
