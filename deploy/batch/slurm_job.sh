# The body of a Slurm job: Ray on every node, then the launcher on the first one. deploy/batch/slurm.py
# writes what stands above, as variables: root run chdir python launcher arguments labels pythons
# set_ups cpus is_gpu nodes_timeout_s. The same file, with words after it, is what a node runs.
set -euo pipefail

export RAY_memory_monitor_refresh_ms="${RAY_memory_monitor_refresh_ms:-0}" # jobs have limits of their own
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # the launcher has drained what there was
export RAY_START_HOOK=deploy.batch.slurm_ray.no_client_server
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$run/ray-token"
unset RAY_AUTH_TOKEN # it would go first
if [ "$is_gpu" = 1 ]; then export FLAVOUR=gpu; fi
# With one node everything stays on loopback, which Ray takes for a mistake where it believes that
# there are clusters.
if [ "${#labels[@]}" = 1 ]; then export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0; fi

say() { printf '[slurm %s] %s\n' "${SLURM_JOB_ID:-?}" "$*"; }
fail() {
  printf 'job failed: %s\n' "$*" >&2
  exit 1
}

# ---- what a node runs

set_up() { # the environments of node number $SLURM_NODEID
  local goal
  for goal in ${set_ups[SLURM_NODEID]}; do "$root/deploy/setup.sh" "$goal"; done
}

start_ray() { # NUMBER ADDRESS OPTION...: Ray on that node, until this ends
  local number=$1 address=$2 given=${SLURM_CPUS_ON_NODE:-0} ray
  shift 2
  # Short, because paths of Unix sockets have 107 bytes at most. A new folder of mode 700: its name
  # cannot be made beforehand, nor can others enter it. Ray opens its own, inside, to everybody.
  temporary=$(mktemp -d "/tmp/vopd-${SLURM_JOB_ID:-0}-XXXXXX") ||
    fail "no folder for temporary files on $(hostname). Fix: make /tmp writable there"
  trap 'rm -rf "$temporary"' EXIT
  trap 'kill -TERM "$ray" 2>/dev/null || true' TERM INT
  if ((given < cpus)); then given=$cpus; fi # a reservation, not a limit
  "${pythons[number]}" -m ray.scripts.scripts start --block --disable-usage-stats --temp-dir="$temporary/r" \
    --num-cpus="$given" --object-store-memory=104857600 --min-worker-port=0 --max-worker-port=0 \
    ${labels[number]:+--labels="${labels[number]}"} "$@" >>"$run/slurm-ray-$number.log" 2>&1 &
  ray=$!
  wait "$ray" || true
  wait "$ray" || true # again, if it was a signal that ended the first
}

case "${1:-}" in
  set-up)
    set_up
    exit
    ;;
  head)
    bare=${2%:*} # an IPv6 address without its brackets
    bare=${bare#[}
    start_ray 0 "$2" --head --node-ip-address="${bare%]}" --port="${2##*:}" --include-dashboard=false
    exit
    ;;
  worker)
    start_ray "$2" "$3" --address="$3"
    exit
    ;;
esac

# ---- what the job runs, on its first node

launched=""
on_term() { # before the end: the run drains and writes its checkpoint
  if [ -z "$launched" ]; then exit 143; fi
  say "SIGTERM: the run drains"
  kill -TERM "$launched" 2>/dev/null || true
}
on_exit() {
  trap - EXIT TERM
  local step
  for step in $(jobs -pr); do kill -TERM "$step" 2>/dev/null || true; done
  wait
  rm -f "$run/ray-token"
}
trap on_term TERM
trap on_exit EXIT

step() { # NODE WORD...: this script on one node, in the background
  srun --overlap --export=ALL --nodes=1 --ntasks=1 --nodelist="$1" \
    --cpus-per-task="${SLURM_CPUS_PER_TASK:-$cpus}" bash "$run/slurm.sh" "${@:2}" &
}
finish() { # COMMAND...: as it is, but a signal is heard at once
  "$@" &
  wait $!
}
ask() { "$python" -m deploy.batch.slurm_ray "$@"; }

cd "$chdir"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
if [ "${#nodes[@]}" != "${#labels[@]}" ]; then
  fail "${#nodes[@]} nodes were allotted, not ${#labels[@]}. Fix: leave --nodes out of cluster.slurm_options"
fi

say "set-up on ${#nodes[@]} nodes"
finish srun --export=ALL --overlap --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 \
  bash "$run/slurm.sh" set-up || fail "a node's environment could not be made, see above"

host=127.0.0.1
if [ "${#nodes[@]}" -gt 1 ]; then
  # The address by which the second node is reached: a name may lead to loopback.
  second=$(scontrol show node "${nodes[1]}" | tr ' ' '\n' | sed -n 's/^NodeAddr=//p')
  host=$(ask address "${second:-${nodes[1]}}")
fi
port=$(ask port "$host")
address=$(ask joined "$host" "$port")
(umask 077 && ask token >"$run/ray-token")

say "Ray at $address"
step "${nodes[0]}" head "$address"
finish ask wait "$address" 1 "$nodes_timeout_s" || fail "Ray did not start on ${nodes[0]}, see $run/slurm-ray-0.log"
for ((number = 1; number < ${#nodes[@]}; number++)); do
  step "${nodes[number]}" worker "$number" "$address"
done
finish ask wait "$address" "${#nodes[@]}" "$nodes_timeout_s" || fail "Ray is not complete, see $run/slurm-ray-*.log"

if [ -e "$run/config.toml" ]; then # the job was requeued, or submitted again
  say "the run goes on"
  arguments=(--config "$run/config.toml" --run.resume true)
fi
# The address last: the run's own configuration names the Ray that it began on.
"${launcher[@]}" "${arguments[@]}" --address "$address" &
launched=$!
code=0
while :; do
  wait "$launched" && code=0 || code=$?
  kill -0 "$launched" 2>/dev/null || break
done
# A signal may have ended the wait, and the launcher just then: its own code is still to be had.
wait "$launched" 2>/dev/null && code=0 || { last=$?; if [ "$last" != 127 ]; then code=$last; fi; }
say "the launcher ended with code $code"
exit "$code"
