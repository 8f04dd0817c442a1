"""One run of a study: a process of the launcher, from its start to its exit code.

It gets a session of its own, so that Ctrl-C in a terminal reaches this process alone, which passes
it on: the first signal drains the run, the second ends it at once. If this process dies, the run
drains, too.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from common.lifecycle import stop_with_parent

DRAIN_S = 120.0
_TIMED_OUT = 124  # exit code, as timeout(1) has it


async def launch(
    command: Sequence[str],
    log: Path,
    stop: asyncio.Event,
    at_once: asyncio.Event,
    timeout_s: float | None,
    drain_s: float = DRAIN_S,
) -> int:
    """The exit code; 124 of a run that was stopped because it took too long.

    Args:
        log: the output of the process is added to it.
        stop: set to have the run drain.
        at_once: set to have the run end at once.
        timeout_s: seconds. None means no limit.
        drain_s: a run that took too long has so many seconds to drain, as many to end at once, and
            is killed then.

    Raises:
        OSError: the command cannot be started, or the log not be written.
    """
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=stop_with_parent,
        )
    async with asyncio.TaskGroup() as tasks:
        relays = [tasks.create_task(_pass_on(event, process)) for event in (stop, at_once)]
        try:
            async with asyncio.timeout(timeout_s):
                return await process.wait()
        except TimeoutError:
            await _end(process, drain_s)
            return _TIMED_OUT
        finally:
            for relay in relays:
                relay.cancel()


async def _pass_on(event: asyncio.Event, process: asyncio.subprocess.Process) -> None:
    await event.wait()
    _terminate(process)


async def _end(process: asyncio.subprocess.Process, drain_s: float) -> None:
    for _ in range(2):  # drain, then at once
        _terminate(process)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                await process.wait()
                return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
