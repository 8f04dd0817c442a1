"""Whether the disk of the run folder still takes anything, told in one line whenever that changes.

The processes wait by themselves: the broker leases no more, the learner stands still before what it
has to write. This says so where a person sees it.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common.full_disk import is_full

_LOOK_S = 2.0
_PROBE_BYTES = 64 * 2**10
_FILE = ".room"


@dataclass
class RoomWatch:
    """Looks whether the disk takes something, again and again."""

    folder: Path  # the run's
    report: Callable[[str], None]  # gets a line when the disk is full, and when it is no longer
    # Whether the learner says that it waits for room: a checkpoint may not fit where a small file
    # does.
    learner_waits: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic  # seconds, only differences count
    _full_since: float | None = field(init=False, default=None)

    @property
    def is_full(self) -> bool:
        return self._full_since is not None

    def look(self) -> None:
        """Try to write a little. Blocks for as long as the disk does."""
        reason = _why_full(self.folder)
        if reason is None and self.learner_waits():
            reason = "a file of the learner does not fit, see logs/learner-0.log"
        if reason is not None and self._full_since is None:
            self._full_since = self.clock()
            self.report(
                f"the disk of {self.folder} is full ({reason}): the run waits, and loses nothing. "
                "Fix: free space there; it goes on by itself"
            )
        elif reason is None and self._full_since is not None:
            seconds = self.clock() - self._full_since
            self._full_since = None
            self.report(f"the disk of {self.folder} has room again after {seconds:.0f} s")

    async def keep_looking(self) -> None:
        """Until this task is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(_LOOK_S)  # a disk does not tell when it is full


def _why_full(folder: Path) -> str | None:
    """What the system says to a small file; None means that it is taken, or refused
    for another reason.
    """
    path = folder / _FILE
    try:
        path.write_bytes(bytes(_PROBE_BYTES))
    except OSError as error:
        return os.strerror(error.errno) if is_full(error) and error.errno else None
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    return None
