"""What a person sees while a run goes on: a live view in a terminal, plain lines elsewhere."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live

from broker.client import BrokerClient
from broker.net.transport import Link
from broker.protocol import Role, Status
from common.errors import BrokerUnavailable, ProtocolError
from common.lifecycle import before_a_hard_exit, before_a_pause, set_or_after
from deploy.showing.data_notes import DataNotes
from deploy.showing.live.facts import Facts, FolderFacts
from deploy.showing.live.folder_facts import read_folder
from deploy.showing.live.keyboard import Keyboard, is_in_front
from deploy.showing.live.page import VIEWS, Keys, picture
from deploy.showing.picture import clock, learner_of, phase_of, plain_line
from deploy.showing.situation import DRAINING

logger = logging.getLogger(__name__)
_REFRESH_S = 1.0
_REQUEST_TIMEOUT_S = 5.0
_SHORT_S, _LONG_S = 2.0, 10.0  # waits that a picture, and a log, tell of
_ENDING = "Ctrl-C drains and ends"
_URGENT = (DRAINING, "silent", "disk")  # kinds that are told at once
_FOLDER_S = 3.0  # between two looks at the run folder


class View(Protocol):
    def update(self, status: Status, elapsed_s: float) -> None: ...


class Screen(View, Protocol):
    """What a person looks at; it is drawn anew also when the broker does not answer."""

    redraw: asyncio.Event  # set when it is to be drawn at once

    def draw(self, elapsed_s: float) -> None: ...


class Waits(Protocol):
    """Lines by key, as `situation.Situation.lines` gives them."""

    def __call__(self, at_least_s: float) -> dict[str, str]: ...


def no_waits(at_least_s: float) -> dict[str, str]:
    return {}


async def show_progress(
    address: Callable[[], Awaitable[str]],
    *others: View,
    link: Link | None = None,
    waits: Waits = no_waits,
    folder: Path | None = None,
) -> None:
    """Follow a run until this task is cancelled, also through the broker's restarts.

    Args:
        address: waits until there is a broker; where it is.
        others: get every look at the status as well.
        link: needed for a broker with keys.
        waits: what the run waits for, asked for at each picture.
        folder: the run's; None: what it says is not shown.
    """
    console = Console()
    began = time.monotonic()
    with contextlib.ExitStack() as shown:
        screen: Screen = PlainView(waits)
        notes = DataNotes(lambda line: print(line, flush=True))
        keyboard: Keyboard | None = None
        if console.is_terminal:
            view = shown.enter_context(LiveView(console, waits, folder))
            keyboard = shown.enter_context(Keyboard(view.press))
            shown.enter_context(before_a_pause(view.leave, keyboard.release))
            view.keys = Keys(has_views=keyboard.is_there, ending=_ENDING)
            notes = DataNotes(console.out)
            screen = view
        async with asyncio.TaskGroup() as tasks:
            if isinstance(screen, LiveView):
                tasks.create_task(screen.follow_folder(), name="folder")
            drawing = draw_forever(screen, lambda: time.monotonic() - began, keyboard)
            tasks.create_task(drawing, name="draw")
            await _follow_all(address, (screen, notes, *others), began, link)


async def draw_forever(
    screen: Screen, elapsed_s: Callable[[], float], keyboard: Keyboard | None = None
) -> None:
    """Draw each second, and at once where something has changed.

    Args:
        keyboard: looks anew whether it has the terminal; None: there are no keys.
    """
    while True:
        try:
            if keyboard is not None:
                keyboard.look()
            screen.draw(elapsed_s())
        except Exception as error:  # as in `_follow`
            logger.warning("%s: %s: %s", type(screen).__name__, type(error).__name__, error)
        await set_or_after(screen.redraw, _REFRESH_S)  # the pace of the picture
        screen.redraw.clear()


async def _follow_all(
    address: Callable[[], Awaitable[str]], views: Sequence[View], began: float, link: Link | None
) -> None:
    while True:
        broker = BrokerClient(
            await address(),
            f"observer-{os.getpid()}",
            Role.OBSERVER,
            request_timeout_s=_REQUEST_TIMEOUT_S,
            link=link,
        )
        try:
            async with broker:
                await _follow(broker, views, began)
        except (BrokerUnavailable, ProtocolError):
            await asyncio.sleep(_REFRESH_S)  # the supervisor says what happened
        except Exception as error:  # the supervisor looks through this view: it must not end
            logger.warning("the view begins anew: %s: %s", type(error).__name__, error)
            await asyncio.sleep(_REFRESH_S)


async def _follow(broker: BrokerClient, views: Sequence[View], began: float) -> None:
    while True:
        status = await broker.status()
        for view in views:
            try:
                view.update(status, time.monotonic() - began)
            except Exception as error:  # a full disk, a terminal that is gone, odd figures: the
                # run goes on, and so do the other views
                logger.warning("%s: %s: %s", type(view).__name__, type(error).__name__, error)
        await asyncio.sleep(_REFRESH_S)  # the pace of the picture


class PlainView:
    """A line for each phase, each step and each long wait, for logs and pipes."""

    def __init__(self, waits: Waits = no_waits) -> None:
        self.redraw = asyncio.Event()
        self._waits = waits
        self._last: tuple[str, int] = ("", -1)
        self._told: dict[str, int] = {}  # how often, by wait

    def update(self, status: Status, elapsed_s: float) -> None:
        learner = learner_of(status)
        state = (phase_of(learner), status.version)
        if state == self._last:
            return
        self._last = state
        print(plain_line(status, elapsed_s), flush=True)

    def draw(self, elapsed_s: float) -> None:
        """Waits of 10 s, and again when they have lasted for 2, 4, 8, ... times as long."""
        current = self._waits(0.0)
        self._told = {key: times for key, times in self._told.items() if key in current}
        for key in current:
            times = self._told.get(key, 0)
            is_urgent = times == 0 and key.startswith(_URGENT)
            line = current[key] if is_urgent else self._waits(_LONG_S * 2**times).get(key)
            if line is not None:
                self._told[key] = times + 1
                print(f"{clock(elapsed_s)}  {line}", flush=True)


class LiveView:
    """The picture of `deploy.showing.live`, with its keys; it is shown for as long as a block runs.

    Args:
        folder: the run's.
        keys: what is shown at first, and how a person leaves.
        is_whole_screen: whether the terminal is this picture's alone.
    """

    def __init__(
        self,
        console: Console,
        waits: Waits = no_waits,
        folder: Path | None = None,
        keys: Keys = Keys(),  # noqa: B008 - frozen
        is_whole_screen: bool = False,
    ) -> None:
        self.mark = ""  # why the picture is not the present; empty: it is
        self.redraw = asyncio.Event()  # set when the picture is to be drawn now
        self._console = console
        self._live: Live | None = None  # None: the terminal is not ours, before and after Ctrl-Z
        self._waits = waits
        self._folder = folder
        self.keys = keys
        self._is_whole_screen = is_whole_screen
        self._status: Status | None = None
        self._said = FolderFacts()
        self._is_other_view = asyncio.Event()
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._hooks.enter_context(before_a_hard_exit(self.leave))
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()
        self.leave()

    def _begin(self) -> Live:
        self._live = Live(
            console=self._console,
            screen=self._is_whole_screen,
            auto_refresh=False,
            transient=True,
        )
        self._live.start()
        return self._live

    def leave(self) -> None:
        """Give the terminal back, until something is drawn while it is ours to draw on."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self.redraw.set()

    def update(self, status: Status, elapsed_s: float) -> None:
        self._status = status

    def press(self, key: str) -> None:
        """Show what a key asks for."""
        self.keys = self.keys.pressed(key)
        self._is_other_view.set()
        self.redraw.set()

    def draw(self, elapsed_s: float) -> None:
        if self._live is None and not is_in_front(self._console.file.fileno()):
            return  # after Ctrl-Z and bg: the shell has the terminal
        live = self._live or self._begin()
        facts = Facts(
            self._status,
            elapsed_s,
            self._waits(_SHORT_S),
            self._said,
            self.mark,
            "" if self._folder is None else self._folder.name,
        )
        width, height = self._console.size
        shown = picture(facts, self.keys, width, height - (not self._is_whole_screen))
        live.update(shown, refresh=True)

    async def follow_folder(self) -> None:
        """Read the run folder, in a thread, for as long as this task lives."""
        while self._folder is not None:
            self._is_other_view.clear()
            view = VIEWS[self.keys.view].name
            try:
                self._said = await asyncio.to_thread(read_folder, self._folder, view, self._status)
            except Exception as error:  # the picture goes on with what it has
                logger.warning("%s: %s: %s", self._folder, type(error).__name__, error)
            self.redraw.set()
            await set_or_after(self._is_other_view, _FOLDER_S)
