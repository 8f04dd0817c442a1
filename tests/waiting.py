"""Waits until something is so, by asking again and again.

What a test awaits comes within a fraction of a second on an idle machine. On a loaded one a process
can stand still for seconds, so the limit is far from both: reaching it means that the thing does
not happen.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

LIMIT_S = 60.0
_PAUSE_S = 0.02


async def until(
    condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = LIMIT_S
) -> None:
    """Return when `condition`, a function or a coroutine function, says yes.

    Raises:
        AssertionError: it did not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not await _asked(condition):
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s"
        await asyncio.sleep(_PAUSE_S)


async def _asked(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = condition()
    return answer if isinstance(answer, bool) else await answer


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float = LIMIT_S,
    report: Callable[[], object] = lambda: "",
) -> None:
    """Return when `condition` says yes, without an event loop.

    Raises:
        AssertionError: it did not within `timeout_s`; with what `report` returns.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s: {report()}"
        time.sleep(_PAUSE_S)
