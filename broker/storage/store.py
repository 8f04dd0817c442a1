"""Where decisions and trajectories are kept until they are needed again, or for good."""

from collections.abc import Iterable
from typing import Any, Protocol

from broker.ledger.entry import Entry
from common.errors import VisionOpdError

Key = tuple[str, int]  # (group id, attempt)


class Damaged(VisionOpdError):
    """The trajectories of a group cannot be read back."""


class StoreFailure(VisionOpdError):
    """The disk does not take what must be kept. What was acknowledged is safe."""


class StoreLost(VisionOpdError):
    """The disk lost something that it had taken. The process must end and recover."""


class Store(Protocol):
    """What the service asks of it. Nothing may be acknowledged before `flush` has returned."""

    @property
    def failure(self) -> str | None:
        """Why the last flush failed; None: all is well."""

    @property
    def is_dirty(self) -> bool:
        """There is something to flush."""

    @property
    def blocks(self) -> bool:
        """`flush` waits for the disk: call it in a thread."""

    def record(
        self, now: float, command: str, arguments: tuple[Any, ...], outcome: Any = None
    ) -> None:
        """Keep one call that changed the ledger, and what came of it."""

    def has_room(self, num_bytes: int) -> bool: ...

    def put(self, key: Key, batch: bytes) -> None:
        """Keep the record batch of a group, which `get` gives back."""

    def get(self, entry: Entry) -> bytes:
        """The group's record batch. Raises Damaged."""

    def step_ended(self, needed: Iterable[Entry]) -> None:
        """A step is trained; only these groups will still be asked for."""

    def committed(self, kept: Iterable[Entry]) -> None:
        """A checkpoint is about to be valid, and only these groups can still matter."""

    def must_sync(self) -> None:
        """The next flush outlives a power cut, whatever the policy."""

    def flush(self) -> None:
        """Make all of it safe. May block. Raises StoreFailure: nothing is lost, call it again."""

    def figures(self) -> dict[str, float]: ...

    def close(self) -> None: ...


class MemoryStore:
    """For a broker without a run folder: nothing outlives the process.

    Args:
        max_bytes: of trajectories held.
    """

    failure: str | None = None
    is_dirty = False
    blocks = False

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._groups: dict[Key, bytes] = {}
        self._held_bytes = 0

    def record(
        self, now: float, command: str, arguments: tuple[Any, ...], outcome: Any = None
    ) -> None:
        pass

    def has_room(self, num_bytes: int) -> bool:
        return self._held_bytes + num_bytes <= self._max_bytes

    def put(self, key: Key, batch: bytes) -> None:
        self._groups[key] = batch
        self._held_bytes += len(batch)

    def get(self, entry: Entry) -> bytes:
        return self._groups[entry.group_id, entry.attempt]

    def step_ended(self, needed: Iterable[Entry]) -> None:
        keys = {(entry.group_id, entry.attempt) for entry in needed}
        for key in self._groups.keys() - keys:
            self._held_bytes -= len(self._groups.pop(key))

    def committed(self, kept: Iterable[Entry]) -> None:
        pass

    def must_sync(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def figures(self) -> dict[str, float]:
        return {"held_groups": len(self._groups), "held_bytes": self._held_bytes}

    def close(self) -> None:
        pass
