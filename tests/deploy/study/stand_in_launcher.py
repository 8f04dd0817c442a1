"""Stands in for deploy/launch_cluster.sh: a process that leaves a run folder, without training.

Environment: STAND_IN_FAILS and STAND_IN_WAITS name runs, with commas. A run of the one ends with
exit code 1; one of the other waits for a signal, and then ends as a run that was drained.
"""

import json
import os
import signal
import sys
from pathlib import Path

from common.config import RunConfig
from common.config_cli import dump_toml, load

FULL_AFTER = {"crop": 0.875, "full": 0.5, "random_crop": 0.125}


def main() -> int:
    config = load(sys.argv[1:])
    folder = config.run.folder
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    run = config.run.model_copy(update={"resume": False})
    kept = dump_toml(config.model_copy(update={"run": run}))
    (folder / "config.toml").write_text(kept, encoding="utf-8")
    with (folder.parent / "calls").open("a", encoding="utf-8") as calls:
        calls.write(f"{folder.name} {'goes on' if config.run.resume else 'begins'}\n")
    if is_named("STAND_IN_FAILS", folder):
        print("the stand-in fails as it was told")
        return 1
    is_interrupted = is_named("STAND_IN_WAITS", folder) and not config.run.resume
    if is_interrupted:
        signal.sigwait({signal.SIGTERM})
    write_summary(folder, config, is_interrupted)
    return 130 if is_interrupted else 0


def is_named(variable: str, folder: Path) -> bool:
    return folder.name in os.environ.get(variable, "").split(",")


def write_summary(folder: Path, config: RunConfig, is_interrupted: bool) -> None:
    """A seed more is 1/64 of accuracy more; half of that where trajectories may be stale."""
    worth = 1 / 128 if config.broker.max_staleness > 1 else 1 / 64
    summary = {
        "full_accuracy_before": 0.5,
        "full_accuracy_after": FULL_AFTER[config.teacher.view] + worth * config.run.seed,
        "gap_closed": None,
        "steps": 40,
        "seconds": 100.0,
        "interrupted": is_interrupted,
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until it is waited for
    sys.exit(main())
