"""RUN/report.html: one self-contained page of what a run did, which can be sent.

It is the inspector's page with a part of its answers (`deploy.inspector.export`).
python -m deploy.showing.report RUN makes it anew.
"""

import sys
from pathlib import Path

from common.config_cli import exit_with
from common.errors import ConfigError
from common.output import ends_with_its_reader
from deploy.inspector.answers import InspectorAnswers
from deploy.inspector.export import write_export
from deploy.inspector.inspected_run import InspectedRun

FILE = "report.html"


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html from the run folder's other files; returns its path.

    What a run did not get to is left out of the page.

    Raises:
        ConfigError: there is no such folder.
        OSError: it cannot be written.
    """
    with InspectedRun("a", run_folder) as run:
        return write_export(InspectorAnswers([run]), run_folder / FILE)


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python -m deploy.showing.report RUN")
        raise SystemExit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    try:
        print(write_report(Path(sys.argv[1])))
    except ConfigError as error:
        exit_with(error)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
