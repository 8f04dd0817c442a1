"""The first signal drains; what the second and the third do is the process's own choice."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from common import lifecycle
from tests.waiting import LIMIT_S


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_is_told_to_who_wants_to_end_in_its_own_way(number: int) -> None:
    stop, at_once = asyncio.Event(), asyncio.Event()
    lifecycle.set_on_signals(stop, at_once)
    try:
        async with asyncio.timeout(60):
            os.kill(os.getpid(), number)
            await stop.wait()
            assert not at_once.is_set()
            os.kill(os.getpid(), number)
            await at_once.wait()
    finally:
        loop = asyncio.get_running_loop()
        for known in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(known)


SIGNALLED = """
import asyncio, os, signal
from common import lifecycle

async def main(stop):
    events = [asyncio.Event() for _ in range({events})]
    lifecycle.set_on_signals(stop, *events)
    for _ in range({signals}):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
    await asyncio.sleep(600)

lifecycle.run(main)
"""


@pytest.mark.parametrize(("events", "signals"), [(0, 2), (1, 3)])
def test_the_last_signal_ends_the_process(events: int, signals: int) -> None:
    script = SIGNALLED.format(events=events, signals=signals)
    done = subprocess.run([sys.executable, "-c", script], timeout=LIMIT_S, check=False)
    assert done.returncode == 128 + signal.SIGTERM
