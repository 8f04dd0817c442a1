"""What limits a run, and where its time went: python -m deploy.explain RUN [--plan FILE]

First, in one sentence, what limits it and which key to turn: now, by the last 20 steps, or as a
whole if it is over. Then the learner's seconds by part, what the rollout servers did, how that
compares with the plan (RUN/plan.json, or --plan FILE, as deploy.plan --json wrote it), and the
command that would help.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from common.config_cli import exit_with
from common.errors import ConfigError, VisionOpdError
from common.output import ends_with_its_reader
from deploy.planning.explain_text import page, read_plan
from deploy.planning.run_files import RunFiles, read_run
from deploy.supervision.launcher_api import LauncherStatus, ask_status


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--plan", type=Path, help="JSON of deploy.plan; none: RUN/plan.json")
    arguments = parser.parse_args(argv)
    try:
        _, text = explained(arguments.run, arguments.plan)
    except ConfigError as error:
        exit_with(error)
    sys.stdout.write(text)


def explained(folder: Path, plan_file: Path | None = None) -> tuple[str, str]:
    """The sentence of a run, and the page that begins with it.

    Args:
        plan_file: None means RUN/plan.json, if there is one.

    Raises:
        ConfigError: no run is there, or the plan is none.
    """
    run = read_run(folder)
    plan = read_plan(folder, plan_file)
    now = _asked(run)
    text = page(run, plan, now.broker, now.waits)
    return text.partition("\n")[0], text


def _asked(run: RunFiles) -> LauncherStatus:
    """What the launcher says of a run that goes on; nothing where there is none to ask."""
    if run.is_over:
        return LauncherStatus()
    try:
        return asyncio.run(ask_status(run.folder))
    except VisionOpdError:
        return LauncherStatus()


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
