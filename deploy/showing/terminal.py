"""What a person sees while a run goes on: a live view in a terminal, plain lines elsewhere."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live

from broker.client import BrokerClient
from broker.net.transport import Link
from broker.protocol import Role, Status
from common.errors import BrokerUnavailable, ProtocolError
from deploy.showing.data_notes import DataNotes
from deploy.showing.picture import clock, learner_of, panel, phase_of, plain_line
from deploy.showing.situation import DRAINING

logger = logging.getLogger(__name__)
_REFRESH_S = 1.0
_REQUEST_TIMEOUT_S = 5.0
_SHORT_S, _LONG_S = 2.0, 10.0  # waits that a picture, and a log, tell of
_URGENT = (DRAINING, "silent", "disk")  # kinds that are told at once
_WIDTH = 100


class View(Protocol):
    def update(self, status: Status, elapsed_s: float) -> None: ...


class Screen(View, Protocol):
    """What a person looks at; it is drawn anew also when the broker does not answer."""

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
) -> None:
    """Follow a run until this task is cancelled, also through the broker's restarts.

    Args:
        address: waits until there is a broker; where it is.
        others: get every look at the status as well.
        link: needed for a broker with keys.
        waits: what the run waits for, asked for at each picture.
    """
    console = Console()
    began = time.monotonic()
    with contextlib.ExitStack() as shown:
        screen: Screen = PlainView(waits)
        notes = DataNotes(lambda line: print(line, flush=True))
        if console.is_terminal:
            live = Live(console=console, auto_refresh=False, transient=True)
            screen = LiveView(shown.enter_context(live), waits)
            notes = DataNotes(console.out)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_draw_forever(screen, began), name="draw")
            await _follow_all(address, (screen, notes, *others), began, link)


async def _draw_forever(screen: Screen, began: float) -> None:
    while True:
        try:
            screen.draw(time.monotonic() - began)
        except Exception as error:  # as in `_follow`
            logger.warning("%s: %s: %s", type(screen).__name__, type(error).__name__, error)
        await asyncio.sleep(_REFRESH_S)  # the pace of the picture


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
    def __init__(self, live: Live, waits: Waits = no_waits) -> None:
        self._live = live
        self._waits = waits
        self._status: Status | None = None

    def update(self, status: Status, elapsed_s: float) -> None:
        self._status = status

    def draw(self, elapsed_s: float) -> None:
        width = min(_WIDTH, self._live.console.width)
        waits = self._waits(_SHORT_S)
        self._live.update(panel(self._status, elapsed_s, waits, width), refresh=True)
