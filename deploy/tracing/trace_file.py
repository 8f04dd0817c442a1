"""Chrome's JSON trace format, written event by event.

Times are whole microseconds since the trace's beginning. So every reader gets the same numbers, and
what lies within something else does so after rounding, too.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple


class Track(NamedTuple):
    """A row of the trace."""

    pid: int
    tid: int


@dataclass
class TraceFile:
    """A trace that is being written. Times given are seconds on the clock of `origin`.

    Args:
        origin: where the trace's own time is 0.
        begin, end: what lies outside of them altogether is left out.
    """

    out: IO[str]
    origin: float
    begin: float = float("-inf")
    end: float = float("inf")
    num_events: int = 0
    _processes: dict[str, int] = field(default_factory=dict)
    _tracks: dict[tuple[str, str], Track] = field(default_factory=dict)

    def open(self) -> None:
        self.out.write('{"displayTimeUnit":"ms","traceEvents":[')

    def close(self, **about: Any) -> None:
        """End the file.

        Args:
            about: what the trace says of itself.
        """
        self.out.write('\n],"otherData":' + json.dumps(about) + "}\n")

    # ---- rows ------------------------------------------------------------------------------------
    def track(self, process: str, name: str) -> Track:
        """The row of that name in a process; rows come in the order in which they are asked for."""
        known = self._tracks.get((process, name))
        if known is not None:
            return known
        if process not in self._processes:
            self._processes[process] = pid = len(self._processes) + 1
            self._describe("process_name", Track(pid, 0), name=process)
            self._describe("process_sort_index", Track(pid, 0), sort_index=pid)
        pid = self._processes[process]
        # Thread ids are unique over processes, and none is a process id.
        track = Track(pid, 1000 + len(self._tracks))
        self._tracks[process, name] = track
        self._describe("thread_name", track, name=name)
        self._describe("thread_sort_index", track, sort_index=track.tid)
        return track

    # ---- what is in them -------------------------------------------------------------------------
    def slice(self, track: Track, name: str, begin: float, end: float, **about: Any) -> None:
        """Something that lasted. Slices of a row lie apart or within one another."""
        if self._is_shown(begin, end):
            at, until = self._us(begin), self._us(end)
            self._event("X", track, name, at, dur=max(0, until - at), args=about)

    def life(self, track: Track, kind: str, key: str, parts: "list[Part]") -> None:
        """Something that lasted, with its parts; any number of them may last at once.

        Args:
            key: unique among those of the kind.
            parts: the whole first; each lies within those that are still open.
        """
        whole = parts[0]
        if not self._is_shown(whole.begin, whole.end):
            return
        open_parts: list[Part] = []
        for part in parts:
            while open_parts and open_parts[-1].end <= part.begin:
                self._end_part(track, kind, key, open_parts.pop())
            at = self._us(part.begin)
            of_process = {"local": key}
            self._event("b", track, part.name, at, cat=kind, id2=of_process, args=part.about)
            open_parts.append(part)
        while open_parts:
            self._end_part(track, kind, key, open_parts.pop())

    def arrow_from(self, track: Track, key: str, at: float) -> None:
        """Begin an arrow at the slice that was written last, which began in a row at that time."""
        if self._is_shown(at, at):
            self._event("s", track, "trained", self._us(at), cat="flow", id=_id(key))

    def arrow_to(self, track: Track, key: str, at: float) -> None:
        """End it at the slice that begins in a row at that time."""
        if self._is_shown(at, at):
            self._event("f", track, "trained", self._us(at) + 1, cat="flow", id=_id(key), bp="e")

    def counter(self, track: Track, name: str, at: float, **values: float) -> None:
        if self._is_shown(at, at):
            self._event("C", track, name, self._us(at), args=values)

    def moment(self, track: Track, name: str, at: float, **about: Any) -> None:
        if self._is_shown(at, at):
            self._event("i", track, name, self._us(at), s="t", args=about)

    # ---- inside ----------------------------------------------------------------------------------
    def _is_shown(self, begin: float, end: float) -> bool:
        return end >= self.begin and begin <= self.end

    def _us(self, seconds: float) -> int:
        return round((seconds - self.origin) * 1e6)

    def _end_part(self, track: Track, kind: str, key: str, part: "Part") -> None:
        self._event("e", track, part.name, self._us(part.end), cat=kind, id2={"local": key})

    def _describe(self, what: str, track: Track, **about: Any) -> None:
        self._event("M", track, what, 0, args=about)

    def _event(self, phase: str, track: Track, name: str, ts: int, **fields: Any) -> None:
        event = {"ph": phase, "name": name, "pid": track.pid, "tid": track.tid, "ts": ts, **fields}
        self.out.write(",\n" if self.num_events else "\n")
        self.out.write(json.dumps(event, separators=(",", ":")))
        self.num_events += 1


class Part(NamedTuple):
    """A part of a life."""

    name: str
    begin: float
    end: float
    about: dict[str, Any]


def _id(key: str) -> int:
    """A number for an arrow, which has no name: 48 bits, as JSON readers keep 53."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "big")
