"""RUN/processes.json: who is up, where, since when, how often started again, and why.

The supervisor writes it at every change, whole or not at all; `python -m deploy.status` and people
read it. Times are seconds since 1970, by the launcher's clock.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from common.errors import VisionOpdError
from common.files import replace_json

logger = logging.getLogger(__name__)
State = Literal[
    "waiting for a place", "starting", "up", "silent", "restarting", "ending", "ended", "given up"
]
FILE = "processes.json"
_ENDS_KEPT = 20


class End(BaseModel):
    """The end of one life of a process."""

    model_config = ConfigDict(frozen=True)

    time: float
    why: str


class Entry(BaseModel):
    """One process."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: State
    since: float  # in this state
    node: str = ""
    pid: int = 0
    restarts: int = 0
    ends: tuple[End, ...] = ()  # of its lives, newest last


class ProcessTable:
    """The processes of a run, kept in RUN/processes.json.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._entries: dict[str, Entry] = {}

    def entries(self) -> list[Entry]:
        return sorted(self._entries.values(), key=_order)

    def is_up(self, name: str) -> bool:
        return name in self._entries and self._entries[name].state == "up"

    def set(self, name: str, state: State, node: str | None = None, pid: int | None = None) -> None:
        """A process is in this state from now on."""
        known = self._entries.get(name)
        base = known or Entry(name=name, state=state, since=self._clock())
        changes: dict[str, object] = {"state": state}
        changes |= {} if base.state == state else {"since": self._clock()}
        changes |= {} if node is None else {"node": node}
        changes |= {} if pid is None else {"pid": pid}
        self._entries[name] = base.model_copy(update=changes)
        if self._entries[name] != known:
            self._write()

    def mark(self, name: str, state: Literal["up", "silent"]) -> None:
        """Note whether a process that runs is heard. Others keep their state."""
        known = self._entries.get(name)
        if known is not None and known.state in ("up", "silent"):
            self.set(name, state)

    def note_restart(self, name: str, why: str) -> None:
        """Its life has ended like that, and another one will begin."""
        known = self._entries[name]
        ends = (*known.ends, End(time=self._clock(), why=why))[-_ENDS_KEPT:]
        self._entries[name] = known.model_copy(
            update={
                "state": "restarting",
                "since": self._clock(),
                "restarts": known.restarts + 1,
                "ends": ends,
                "pid": 0,
            }
        )
        self._write()

    def remove(self, name: str) -> None:
        """It is no longer part of the run."""
        self._entries.pop(name, None)
        self._write()

    def _write(self) -> None:
        document = {"processes": [entry.model_dump() for entry in self.entries()]}
        try:
            replace_json(self._path, document)
        except OSError as error:  # a full disk: the run does not end because of this view of it
            logger.warning("%s cannot be written: %s", self._path, error)


def read_processes(run_folder: Path) -> list[Entry]:
    """Read RUN/processes.json.

    Raises:
        VisionOpdError: the folder holds none, or the file is damaged.
    """
    path = run_folder / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [Entry.model_validate(entry) for entry in document["processes"]]
    except FileNotFoundError:
        raise VisionOpdError(
            f"{run_folder} holds no {FILE}. Fix: name the folder of a run that was launched"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        first_line = str(error).partition("\n")[0]
        raise VisionOpdError(
            f"{path} cannot be read: {first_line}. Fix: ask again after the next change, which "
            "writes it anew"
        ) from None


def _order(entry: Entry) -> tuple[int, int]:
    """broker, learners, rollouts; by number."""
    kind, _, number = entry.name.partition("-")
    kinds = ("broker", "learner", "rollout")
    return kinds.index(kind) if kind in kinds else len(kinds), int(number or 0)
