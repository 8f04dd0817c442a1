#!/usr/bin/env bash
# Sets up and runs: deploy/launch_cluster.sh [--config FILE] [--section.key value ...]
# Without arguments it runs the quickstart, on a CPU. --help lists every option.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/deploy/setup.sh"
exec "$root/.venv/bin/python" -m deploy.launch "$@"
