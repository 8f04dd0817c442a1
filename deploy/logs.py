"""The logs of all processes of a run, merged by time: python -m deploy.logs RUN [--follow]

Every line is preceded by the name of its process. Ctrl-C ends --follow; so does the end of the run.
"""

import argparse
import fnmatch
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from common.errors import ConfigError
from common.log_files import identity, processes_in
from common.output import ends_with_its_reader
from deploy.showing.log_reading import Line, LogSource, harmless, merged

_LOOK_S = 0.2  # between two looks at the files, which have no event that all file systems tell
_QUIET_S = 2.0  # that follow the end of a run before we end
_ROUND_LINES = 10_000  # before the next look at who else has written
_SHOWN_WHEN_FOLLOWING = 50  # lines of before
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class RunLogs:
    """The logs in RUN/logs; processes that begin later are found, too. A context: it opens files.

    Args:
        only: names of processes, or patterns; `rollout` stands for all of them. Empty: all.
    """

    def __init__(self, run_folder: Path, only: Sequence[str] = ()) -> None:
        self._folder = run_folder / "logs"
        if not self._folder.is_dir():
            raise ConfigError(
                f"RUN = {str(run_folder)!r} is no run folder: it has no folder logs. "
                "Fix: name the folder that the launcher showed as 'run folder:'"
            )
        self._only = only
        self._sources: dict[str, LogSource] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for source in self._sources.values():
            source.close()

    def look(self) -> list[LogSource]:
        """The sources as there are now, in the order of their names."""
        for name in processes_in(self._folder):
            if name not in self._sources and _is_meant(name, self._only):
                self._sources[name] = LogSource(self._folder / f"{name}.log")
        return sorted(self._sources.values(), key=lambda source: _natural(source.name))

    def check_only(self) -> None:
        """Refuse a name that no process has, with a ConfigError."""
        there = processes_in(self._folder)
        for wanted in self._only:
            if not any(_is_meant(name, [wanted]) for name in there):
                raise ConfigError(
                    f"--only {wanted}: no process of this run is called so. "
                    f"Fix: one of {', '.join(there) or 'none, there are no logs yet'}"
                )


class Printer:
    """Writes lines with the names of their processes before them, in colour where asked for."""

    def __init__(self, out: BinaryIO, has_colour: bool) -> None:
        self._out = out
        self._has_colour = has_colour
        self._width = 0
        self._prefixes: dict[str, bytes] = {}

    def know(self, names: Iterable[str]) -> None:
        """Names that are to come: the lines of all of them begin in one column."""
        width = max([self._width, *map(len, names)])
        if width > self._width:
            self._width = width
            self._prefixes.clear()

    def print(self, line: Line) -> None:
        text = line.text.rstrip(b"\r")
        # Of a progress bar, that overwrites itself, what was to be seen in the end.
        shown = harmless(text[text.rfind(b"\r") + 1 :])
        self._out.write(self._prefix(line.name) + shown + b"\n")

    def flush(self) -> None:
        self._out.flush()

    def _prefix(self, name: str) -> bytes:
        prefix = self._prefixes.get(name)
        if prefix is None:
            shown = f"{name:<{self._width}} |"
            if self._has_colour:
                shown = f"\x1b[{_COLOURS[sum(name.encode()) % len(_COLOURS)]}m{shown}\x1b[0m"
            prefix = self._prefixes[name] = f"{shown} ".encode()
        return prefix


def history(logs: RunLogs, lines: int | None, since: float | None) -> Iterator[Line]:
    """What the logs hold: all, or the last `lines`, or what was written at `since` or later.

    Holds no more than a block of each log and `lines` lines.
    """
    sources = logs.look()
    for source in sources:
        if since is not None:
            source.skip_before(since)
        elif lines is not None:
            source.start_at(lines)
    found = (line for line in merged(sources) if since is None or line.time >= since)
    yield from found if lines is None else deque(found, maxlen=lines)


def follow(
    logs: RunLogs,
    printer: Printer,
    is_over: Callable[[], bool],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Print lines as they come, until `is_over` and all have been quiet for a while."""
    quiet_s = 0.0
    while True:
        sources = logs.look()
        printer.know(source.name for source in sources)
        num_lines = 0
        for line in merged(sources, _ROUND_LINES):
            printer.print(line)
            num_lines += 1
        printer.flush()
        if num_lines:
            quiet_s = 0.0
        elif quiet_s >= _QUIET_S and is_over():
            return
        if num_lines < _ROUND_LINES:
            pause(_LOOK_S)
            quiet_s += _LOOK_S


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parse(argv)
    try:
        with RunLogs(arguments.run, arguments.only) as logs:
            _show(arguments, logs)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def _show(arguments: argparse.Namespace, logs: RunLogs) -> None:
    printer = Printer(sys.stdout.buffer, sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    summary: Path = arguments.run / "summary.json"
    before = identity(summary)
    lines, since = arguments.lines, arguments.since
    if not arguments.follow:
        logs.check_only()
    elif lines is None and since is None:
        lines = _SHOWN_WHEN_FOLLOWING
    printer.know(source.name for source in logs.look())
    for line in history(logs, lines, None if since is None else time.time() - since):
        printer.print(line)
    printer.flush()
    if arguments.follow:
        if before is not None:
            _say(f"the run is over ({summary}); waiting in case it is resumed")
        follow(logs, printer, lambda: identity(summary) not in (None, before))
    for source in logs.look():
        if (last := source.last_words()) is not None:
            printer.print(last)
    printer.flush()
    if arguments.follow:
        _say(f"the run is over ({summary})")


def _say(line: str) -> None:
    print(f"-- {line}", file=sys.stderr, flush=True)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.logs", description="Shows the logs of a run, merged by time."
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--follow", action="store_true", help="go on as lines come")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME",
        help="these processes alone: broker, rollout-0, engine-*; rollout means all of them",
    )  # fmt: skip
    parser.add_argument(
        "--lines", type=_count, metavar="N",
        help=f"the last N lines alone (with --follow: {_SHOWN_WHEN_FOLLOWING})",
    )  # fmt: skip
    parser.add_argument(
        "--since", type=_seconds, metavar="TIME", help="the last 30s, 10m, 2h or 1d alone"
    )
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines, such as 200")
    return int(text)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time, such as 30s, 10m or 2h")
    return float(match[1]) * _UNITS_S[match[2]]


def _is_meant(name: str, only: Sequence[str]) -> bool:
    kind, _, number = name.rpartition("-")
    is_numbered = number.isdigit()
    return not only or any(
        fnmatch.fnmatchcase(name, wanted) or (is_numbered and kind == wanted) for wanted in only
    )


def _natural(name: str) -> tuple[str, int]:
    """rollout-2 comes before rollout-10."""
    kind, _, number = name.rpartition("-")
    return (kind, int(number)) if number.isdigit() else (name, -1)


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
