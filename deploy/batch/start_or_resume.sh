#!/usr/bin/env bash
# The launcher, which begins the run in a folder, or goes on with it where it has begun:
#   deploy/batch/start_or_resume.sh RUN CONFIG [WORD ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
run=$1 config=$2
shift 2
if [ -e "$run/config.toml" ]; then set -- "$@" --run.resume true; config="$run/config.toml"; fi
# The words last: they win over the configuration.
exec "$root/.venv/bin/python" -m deploy.launch --config "$config" "$@"
