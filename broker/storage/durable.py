"""The store that outlives the broker: a journal of decisions and segments of trajectories.

    RUN/journal/journal.log               every call that changed the ledger, in order
    RUN/journal/segment-000001.arrow ...  trajectories

What is flushed has been handed to the system: it outlives the broker's death. What outlives a power
cut depends on `fsync`:

- always: everything that was acknowledged. Each answer waits for the disk.
- interval: everything acknowledged more than `interval_s` (and one fsync) ago.
- never: what the system happened to write.

With any of them the rare decisions are synced before they are acknowledged: commits (a checkpoint
never knows more steps than the journal), rewinds, and new lives of members. After a power cut a new
history begins: what was acknowledged and forgotten is never mistaken for what happens next. The
journal is written after the segments it speaks of, so that a cut anywhere leaves a state that was
once true.

Pruning: at a commit, every closed segment is deleted of which no group can matter any more: each
one expired, or was trained in a step that no rewind can undo. The journal is kept whole.
"""

import asyncio
import logging
import threading
import zlib
from collections.abc import Iterable
from typing import Any, Literal

from broker.ledger.entry import Entry
from broker.storage.disk import Disk
from broker.storage.frames import encode_record
from broker.storage.segments import Place, segment_head, segment_name
from broker.storage.store import Damaged, Key, StoreFailure, StoreLost
from common.journal_file import JOURNAL

logger = logging.getLogger(__name__)
STORED = "stored"  # the record that says where a group lies; all others are calls of the ledger
_SEGMENT_BYTES = 64 * 2**20
_CACHE_BYTES = 256 * 2**20
Fsync = Literal["always", "interval", "never"]


class RecentGroups:
    """The newest groups as they came, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._encoded: dict[Key, bytes] = {}  # the oldest first
        self._num_bytes = 0

    def add(self, key: Key, encoded: bytes) -> None:
        self._num_bytes += len(encoded) - len(self._encoded.pop(key, b""))
        self._encoded[key] = encoded

    def get(self, key: Key) -> bytes | None:
        return self._encoded.get(key)

    def keep(self, keys: set[Key]) -> None:
        """Drop all others."""
        for key in self._encoded.keys() - keys:
            self._num_bytes -= len(self._encoded.pop(key))

    def shrink(self, pinned: set[Key]) -> None:
        """Drop the oldest until the rest fits, but none of the pinned, nor what came after one."""
        while self._num_bytes > self._max_bytes:
            oldest = next(iter(self._encoded))
            if oldest in pinned:
                return
            self._num_bytes -= len(self._encoded.pop(oldest))


class DurableStore:
    """The store on a disk: a journal, and segments with the groups.

    Args:
        next_record: number of the journal's next record.
        places: where the groups lie that were stored before.
        next_segment: number of the next segment file.
        cache_bytes: of groups that can be given out without a look at the disk.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        fsync: Fsync,
        interval_s: float = 1.0,
        next_record: int = 0,
        places: dict[Key, Place] | None = None,
        next_segment: int = 1,
        segment_bytes: int = _SEGMENT_BYTES,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self.failure: str | None = None
        self._disk = disk
        self._fsync = fsync
        self._interval_s = interval_s
        self._segment_bytes = segment_bytes
        self._next_record = next_record
        self._places = {} if places is None else places
        self._segment = segment_name(next_segment)
        self._next_segment = next_segment + 1
        self._sizes = {JOURNAL: disk.size(JOURNAL)}  # of what is safely appended
        self._parts: list[tuple[str, bytes]] = []  # (file, content) still to be appended, in order
        self._unwritten: set[Key] = set()  # groups in those parts
        self._recent = RecentGroups(cache_bytes)
        self._unsynced: set[str] = set()
        self._must_sync = False
        self._doomed: list[str] = []  # segments to delete once the commit is safe
        self._segment_size = 0
        self._num_syncs = 0
        self._now = 0.0
        self._appending = threading.RLock()  # held while what is still to be written changes
        self._one_sync_at_a_time = threading.Lock()

    # ---- what the service asks -------------------------------------------------------------------
    @property
    def is_dirty(self) -> bool:
        return bool(self._parts or self._must_sync)

    @property
    def blocks(self) -> bool:
        return self._fsync == "always" or self._must_sync

    def record(
        self, now: float, command: str, arguments: tuple[Any, ...], outcome: Any = None
    ) -> None:
        record = encode_record(self._next_record, now, command, arguments, outcome)
        self._next_record += 1
        self._now = now
        with self._appending:
            self._parts.append((JOURNAL, record))
            self._must_sync |= self._fsync == "always"

    def has_room(self, num_bytes: int) -> bool:
        return True  # the disk says when it is full

    def put(self, key: Key, batch: bytes) -> None:
        if self._segment_size == 0:
            self._append(segment_head())
        place = Place(self._segment, self._segment_size, len(batch), zlib.crc32(batch))
        with self._appending:
            self._append(batch)
            self._unwritten.add(key)
        self._places[key] = place
        self._recent.add(key, batch)
        self._recent.shrink(self._unwritten)
        self.record(self._now, STORED, (*key, *place))  # ahead of its call
        if self._segment_size >= self._segment_bytes:
            self._begin_segment()

    def get(self, entry: Entry) -> bytes:
        key = (entry.group_id, entry.attempt)
        if (encoded := self._recent.get(key)) is not None:
            return encoded
        place = self._places.get(key)
        if place is None:
            raise Damaged(f"no trajectories of {entry.group_id}, attempt {entry.attempt}")
        try:
            content = self._disk.read(place.segment, place.offset, place.length)
        except OSError as error:
            raise Damaged(f"{place.segment}: {error.strerror}") from error
        if not place.holds(content):
            raise Damaged(f"{place.segment}, bytes {place.offset} to {place.offset + place.length}")
        return content

    def step_ended(self, needed: Iterable[Entry]) -> None:
        self._recent.keep({(entry.group_id, entry.attempt) for entry in needed} | self._unwritten)

    def must_sync(self) -> None:
        with self._appending:
            self._must_sync = True

    def committed(self, kept: Iterable[Entry]) -> None:
        keys = {(entry.group_id, entry.attempt) for entry in kept}
        live = {place.segment for key, place in self._places.items() if key in keys}
        if self._segment_size:
            self._begin_segment()
        for segment in {place.segment for place in self._places.values()} - live:
            self._doomed.append(segment)
        gone = set(self._doomed)
        self._places = {k: place for k, place in self._places.items() if place.segment not in gone}

    def flush(self) -> None:
        with self._appending:  # the other thread may go on to append
            must_sync, self._must_sync = self._must_sync, False
            parts, self._parts = self._parts, []
            written = set(self._unwritten)
        try:
            for name in sorted({name for name, _ in parts}, key=lambda name: name == JOURNAL):
                self._write(name, b"".join(content for file, content in parts if file == name))
                parts = [part for part in parts if part[0] != name]
        except OSError as error:
            with self._appending:
                self._parts[:0] = parts
                self._must_sync |= must_sync
            reason = error.strerror or str(error)
            self.failure = f"the journal cannot be written: {reason}. Fix: free space on its disk"
            raise StoreFailure(self.failure) from error
        self.failure = None
        self._unwritten -= written
        if must_sync:
            self.sync()

    def sync(self) -> None:
        """Everything flushed so far outlives a power cut, segments before the journal. Blocks.

        Raises:
            StoreLost: the disk failed. What it had not written may be gone, and a later sync would
                not tell, so the broker must end.
        """
        with self._one_sync_at_a_time:
            unsynced, self._unsynced = self._unsynced, set()
            doomed, self._doomed = self._doomed, []
            try:
                for name in sorted(unsynced, key=lambda name: (name == JOURNAL, name)):
                    self._disk.sync(name)
                for name in doomed:
                    self._disk.delete(name)
                    self._sizes.pop(name, None)
            except OSError as error:
                raise StoreLost(f"the journal's disk failed: {error}") from error
            self._num_syncs += 1

    def figures(self) -> dict[str, float]:
        return {
            "held_groups": len(self._places),
            "journal_records": self._next_record,
            "journal_bytes": self._sizes[JOURNAL],
            "segment_bytes": sum(self._sizes.values()) - self._sizes[JOURNAL],
            "syncs": self._num_syncs,
        }

    def close(self) -> None:
        """Sync, unless that has failed, and let go of the files."""
        if self.failure is None:
            self.sync()
        self._disk.close()

    # ---- the interval ----------------------------------------------------------------------------
    async def sync_at_intervals(self) -> None:
        """Runs until cancelled. Only for fsync = interval."""
        while True:
            await asyncio.sleep(self._interval_s)
            if self._unsynced:
                await asyncio.to_thread(self.sync)

    # ---- inside ----------------------------------------------------------------------------------
    def _append(self, content: bytes) -> None:
        with self._appending:
            self._parts.append((self._segment, content))
        self._segment_size += len(content)

    def _begin_segment(self) -> None:
        self._segment = segment_name(self._next_segment)
        self._next_segment += 1
        self._segment_size = 0

    def _write(self, name: str, content: bytes) -> None:
        """Append all of it; what an earlier try had left half-way is cut off first."""
        size = self._sizes.setdefault(name, 0)
        if self.failure is not None:
            self._disk.truncate(name, size)
        self._disk.append(name, content)
        self._sizes[name] = size + len(content)
        self._unsynced.add(name)
