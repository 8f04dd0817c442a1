"""Where a run's time went: python -m deploy.explain RUN [--plan FILE]

During a run or after it: the learner's seconds by part, what the rollout servers did, how that
compares with the plan (RUN/plan.json, or --plan FILE, as deploy.plan --json wrote it), what limits
the run, and the command that would help.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.config_cli import exit_with
from common.errors import ConfigError
from common.output import ends_with_its_reader
from deploy.planning.explain_text import page, read_plan
from deploy.planning.run_files import read_run


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
        text = page(read_run(arguments.run), read_plan(arguments.run, arguments.plan))
    except ConfigError as error:
        exit_with(error)
    sys.stdout.write(text)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
