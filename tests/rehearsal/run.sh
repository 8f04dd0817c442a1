#!/usr/bin/env bash
# Sets up and rehearses the published experiment in miniature: tests/rehearsal/run.sh [--model PATH]
# [--data PATH] [--out DIR] [--section.key value ...]. --help tells the rest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
"$root/deploy/setup.sh" dev
"$root/deploy/setup.sh" sglang
cd "$root"
exec .venv/bin/python -m tests.rehearsal.run "$@"
