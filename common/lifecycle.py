"""Start, signals and stop: the same for every process.

The first SIGTERM, SIGINT or SIGHUP (the terminal is closed) sets the stop event and the process
drains; the second one ends it at once, in its own way where it has one. A process whose parent has
died stops too, so that nothing outlives a killed launcher.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import uvloop

logger = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
T = TypeVar("T")
_last_acts: list[Callable[[], None]] = []  # before a signal ends this process at once


def run(main: Callable[[asyncio.Event], Awaitable[T]]) -> T:
    """Run an async process; `main` gets the stop event, and what it returns is returned."""

    async def supervised() -> T:
        stop = asyncio.Event()
        set_on_signals(stop)
        return await main(stop)

    return uvloop.run(supervised())


def set_on_signals(stop: asyncio.Event, at_once: asyncio.Event | None = None) -> None:
    """Let the first SIGTERM, SIGINT or SIGHUP set `stop`. Call it inside the running loop.

    Call it again after a library has put its own handlers in place (Ray does).

    Args:
        at_once: set by the second; the third then ends the process. None means the second does.
    """
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set() and (at_once is None or at_once.is_set()):
            for act in _last_acts:
                act()
            os._exit(128 + number)
        if stop.is_set() and at_once is not None:
            at_once.set()
        logger.info("%s: draining", signal.Signals(number).name)
        stop.set()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup wants it ignored
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)


@contextlib.contextmanager
def before_a_hard_exit(act: Callable[[], None]) -> Iterator[None]:
    """Do something short before a signal ends the process at once, for as long as the block runs.

    A terminal's mode outlives the process: no `finally` brings it back then.
    """
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


@contextlib.contextmanager
def before_a_pause(*acts: Callable[[], None]) -> Iterator[None]:
    """Do something short before Ctrl-Z stops the process, for as long as the block runs.

    Call it inside the running loop. The stop itself stays the system's, which ignores it where no
    shell is there to go on from it. A process that ignores the signal goes on ignoring it.

    Args:
        acts: what the block itself must make up for when the process goes on, after `fg` or `bg`.
    """
    loop = asyncio.get_running_loop()

    def pause() -> None:
        for act in acts:
            act()
        loop.remove_signal_handler(signal.SIGTSTP)
        signal.raise_signal(signal.SIGTSTP)  # returns when the process is told to go on
        loop.add_signal_handler(signal.SIGTSTP, pause)

    if signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN:
        yield
        return
    loop.add_signal_handler(signal.SIGTSTP, pause)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTSTP)


@contextlib.contextmanager
def signal_handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Handle a signal in another way for as long as the block runs. Main thread only.

    Args:
        handler: one that `signal.signal` takes.
    """
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this id, also another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # another user's, or no process id at all: it must not count as gone
    return True


def stop_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent process dies (Linux; elsewhere nothing)."""
    _ask_for(signal.SIGTERM)


def die_with_parent() -> None:
    """Ask the kernel for a SIGKILL then: nothing is left when the parent is started again."""
    _ask_for(signal.SIGKILL)


def _ask_for(number: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


async def set_or_after(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, for at most so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


async def until_stopped(work: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T | None:
    """What `work` returns; None means that it was cancelled because `stop` was set."""
    task = asyncio.ensure_future(work())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, stopped):
            one.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


def backoff(first_s: float, limit_s: float, rng: random.Random) -> Iterator[float]:
    """Waiting times that double up to `limit_s`, each with up to 50 % of jitter taken off."""
    wait_s = first_s
    while True:
        yield wait_s * (1 - 0.5 * rng.random())
        wait_s = min(2 * wait_s, limit_s)
