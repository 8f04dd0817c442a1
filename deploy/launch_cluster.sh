#!/usr/bin/env bash
# Sets up and runs: deploy/launch_cluster.sh [--config FILE] [--section.key value ...]
# Without arguments it runs the quickstart, on a CPU. --dry-run shows what would be placed where;
# --address joins a Ray that runs, --slurm and --kuberay go through those. --help lists every option.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/deploy/setup.sh" >&2 # what --kuberay and --dry-run print may go into a file
exec "$root/.venv/bin/python" -m deploy.launch "$@"
