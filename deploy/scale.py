"""More or fewer rollout servers while a run goes on: python -m deploy.scale RUN rollout=6

`rollout=advised` takes as many as the planner advises from what the run has measured so far.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from common.errors import VisionOpdError
from common.output import ends_with_its_reader
from deploy.exit_codes import ExitCode
from deploy.supervision.launcher_api import ask


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.scale",
        description="Has a running run start or end rollout servers; those that end drain first.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    parser.add_argument("wish", metavar="rollout=N", help="N servers, or rollout=advised")
    arguments = parser.parse_args()
    try:
        servers = wanted(arguments.wish, arguments.run)
        answer = asyncio.run(ask(arguments.run, {"rollout": servers}))
    except VisionOpdError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(ExitCode.REFUSED) from None
    print(f"rollout servers: {answer['before']} > {answer['rollout']}")


def wanted(wish: str, run_folder: Path) -> int:
    """The number in `rollout=N`. Raises VisionOpdError."""
    pool, separator, number = wish.partition("=")
    if pool != "rollout" or not separator:
        raise VisionOpdError(
            f"{wish!r} is nothing that can be scaled: the learner's ranks share one model. "
            "Fix: rollout=N"
        )
    if number == "advised":
        from deploy.planning.verdict import advised_servers

        return advised_servers(run_folder)
    if not number.isdecimal():
        raise VisionOpdError(f"{wish!r} names no number. Fix: rollout=6, or rollout=advised")
    return int(number)


def scale_supervisor(supervisor: Any, wish: dict[str, Any]) -> dict[str, Any]:
    """Carry out what came over the wire. Raises VisionOpdError."""
    servers = wish.get("rollout")
    if set(wish) != {"rollout"} or not isinstance(servers, int) or isinstance(servers, bool):
        raise VisionOpdError(f'{wish!r}: not understood. Fix: {{"rollout": N}}')
    before = supervisor.servers
    supervisor.scale(servers)
    return {"before": before, "rollout": servers}


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
