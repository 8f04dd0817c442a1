"""Watch a run from another terminal: python -m deploy.top RUN

Shows what the launcher's own terminal shows, on the same machine: how far the run is, what limits
it, servers, queue, the parts of a step, warnings. Keys change the view; q leaves, and the run goes
on. A run that is over, or whose launcher is gone, is shown as its folder has it.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from common import lifecycle
from common.errors import VisionOpdError
from common.output import ends_with_its_reader
from deploy.exit_codes import ExitCode
from deploy.showing.data_notes import DataNotes
from deploy.showing.live.facts import Facts
from deploy.showing.live.folder_facts import read_folder
from deploy.showing.live.keyboard import Keyboard
from deploy.showing.live.page import VIEWS, Keys, picture
from deploy.showing.terminal import LiveView, PlainView, draw_forever
from deploy.status import has_ended, without_launcher
from deploy.supervision.launcher_api import LauncherStatus, ask_status
from deploy.supervision.process_table import FILE

_LOOK_S = 1.0
_FAILURES = 3  # looks in a row without an answer, after which plain lines end


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parse(argv)
    folder: Path = arguments.run
    if not any((folder / name).is_file() for name in ("config.toml", FILE)):
        print(f"error: RUN = {str(folder)!r} holds no run. Fix: name a run folder", file=sys.stderr)
        raise SystemExit(ExitCode.REFUSED)
    watch = Watch(folder)
    if arguments.once:
        code = asyncio.run(once(watch, arguments.view))
    elif arguments.plain or not sys.stdout.isatty() or Console().is_dumb_terminal:
        code = lifecycle.run(lambda stop: told(watch, stop))
    else:
        code = lifecycle.run(lambda stop: shown(watch, arguments.view, stop))
    raise SystemExit(code)


class Watch:
    """Looks at a run through its launcher; without one, says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = LauncherStatus()
        self.mark = ""  # why `now` is not the present; empty: it is
        self.is_over = False
        self.failures = 0  # in a row

    async def look(self) -> None:
        try:
            self.now = await ask_status(self.folder)
            self.mark, self.is_over, self.failures = "", False, 0
        except VisionOpdError as error:
            self.failures += 1
            self.now = LauncherStatus(self.now.broker, self.now.elapsed_s)
            self.mark, self.is_over = await asyncio.to_thread(_left, self.folder, str(error))

    def waits(self, at_least_s: float) -> dict[str, str]:
        """The launcher's lines; their first word tells what kind they are."""
        return {line.partition(":")[0]: line for line in self.now.waits}


def _left(folder: Path, error: str) -> tuple[str, bool]:
    """What the folder says of a run without a launcher, and whether that is over."""
    try:
        return without_launcher(folder, error), has_ended(folder)
    except (VisionOpdError, OSError, ValueError) as unreadable:
        return f"{error}\n{unreadable}", False


async def once(watch: Watch, view: str) -> int:
    """One picture."""
    await watch.look()
    facts = Facts(
        watch.now.broker,
        watch.now.elapsed_s,
        watch.waits(0.0),
        read_folder(watch.folder, VIEWS[view].name, watch.now.broker),
        watch.mark,
        watch.folder.name,
    )
    console = Console()
    console.print(picture(facts, Keys(view, has_views=False, ending=""), console.width))
    return ExitCode.TRAINED


async def told(watch: Watch, stop: asyncio.Event) -> int:
    """Lines, until the run ends."""
    view = PlainView(watch.waits)
    notes = DataNotes(lambda line: print(line, flush=True))
    while not stop.is_set():
        await watch.look()
        if watch.is_over or watch.failures >= _FAILURES:
            print(watch.mark, flush=True)
            return ExitCode.TRAINED if watch.is_over else ExitCode.FAILED
        if not watch.mark:
            if watch.now.broker is not None:
                view.update(watch.now.broker, watch.now.elapsed_s)
                notes.update(watch.now.broker, watch.now.elapsed_s)
            view.draw(watch.now.elapsed_s)
        await lifecycle.set_or_after(stop, _LOOK_S)
    return ExitCode.TRAINED


async def shown(watch: Watch, first: str, stop: asyncio.Event) -> int:
    """The live view, until q or a signal."""
    view = LiveView(Console(), watch.waits, watch.folder, Keys(first), is_whole_screen=True)

    def press(key: str) -> None:
        if key in "qQ":
            stop.set()
        view.press(key)

    async def look() -> None:
        await watch.look()
        view.mark = watch.mark
        if watch.now.broker is not None:
            view.update(watch.now.broker, watch.now.elapsed_s)
        view.redraw.set()

    async def look_forever() -> None:
        while True:
            await asyncio.sleep(_LOOK_S)  # the pace of the picture
            await look()

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(look_forever(), name="look")
            tasks.create_task(view.follow_folder(), name="folder")
            drawing = draw_forever(view, lambda: watch.now.elapsed_s, keyboard)
            tasks.create_task(drawing, name="draw")

    await look()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as shown:
        shown.enter_context(view)
        keyboard = shown.enter_context(Keyboard(press))
        shown.enter_context(lifecycle.before_a_pause(view.leave, keyboard.release))
        loop.add_signal_handler(signal.SIGWINCH, view.redraw.set)
        shown.callback(loop.remove_signal_handler, signal.SIGWINCH)
        await lifecycle.until_stopped(work, stop)
    return ExitCode.TRAINED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.top",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    names = {view.name: key for key, view in VIEWS.items()}
    parser.add_argument("--view", choices=names, default="overview", help="the view to begin with")
    parser.add_argument(
        "--plain", action="store_true", help="lines, as in a pipe; ends when the run does"
    )
    parser.add_argument("--once", action="store_true", help="one picture, and end")
    arguments = parser.parse_args(argv)
    arguments.view = names[arguments.view]
    return arguments


if __name__ == "__main__":
    with ends_with_its_reader():
        main()
