"""Gives the rows of RUN/metrics.jsonl to W&B or MLflow: a program beside the learner.

    python -m learner.figures.tracker_program wandb|mlflow RUN ABOUT SECONDS

It begins with the rows that are there. A byte on its standard input says that there are more, the
end of it that there are no more; it then takes at most SECONDS, also if no learner is left to end
it. A SIGTERM, which Slurm sends to all processes, is the learner's: its last rows are still to
come. It leads a process group. ABOUT is JSON (`learner.figures.trackers.about`).
"""

import json
import logging
import math
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common.figure_rows import row_of
from common.logs import configure_logging
from learner.figures.mlflow_run import MlflowRun
from learner.figures.trackers import Tracker
from learner.figures.wandb_run import WandbRun

logger = logging.getLogger(__name__)
_AT_ONCE = 65536


def follow(path: Path, tracker: Tracker, told: int) -> None:
    """Give a tracker the whole rows of a file, and those that come.

    Args:
        told: a descriptor, from which a byte comes when there is more, and the end in the end.
    """
    rest, number = b"", 0
    with path.open("rb") as file:
        is_open = True
        while True:
            *lines, rest = (rest + file.read()).split(b"\n")
            for line in lines:
                number += 1
                row = row_of(line.decode(), path, number)
                tracker.write(row["step"], _figures(row))
            if not is_open:
                return
            is_open = bool(os.read(told, _AT_ONCE))


def end_after(told: int, seconds: float) -> None:
    """Wait for the end of a pipe without reading it, then kill this process group after a while."""
    end = select.poll()
    end.register(told, 0)  # what it always tells of: that there is no writer any more
    end.poll()
    time.sleep(seconds)
    logger.error("not all figures are out %g s after the learner's last: given up", seconds)
    os.killpg(os.getpid(), signal.SIGKILL)


def _figures(row: dict[str, Any]) -> dict[str, float | None]:
    """What of a row is a finite number, time_s with it."""
    numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    name, folder, told, seconds = sys.argv[1:]
    configure_logging(name)
    bound = (sys.stdin.fileno(), float(seconds))
    threading.Thread(target=end_after, args=bound, daemon=True).start()
    try:
        kind = WandbRun if name == "wandb" else MlflowRun
        tracker: Tracker = kind(Path(folder), json.loads(told))
        follow(Path(folder) / "metrics.jsonl", tracker, sys.stdin.fileno())
        tracker.close()
    except Exception as error:  # the boundary of this process, which the run can do without
        logger.error("%s: %s", type(error).__name__, " ".join(str(error).split())[:500])
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
