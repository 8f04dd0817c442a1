"""Replies as they came: RESULT/replies.jsonl, by which a run goes on where it was stopped.

A reply belongs to a set, an item, a view and the digest of what was shown. A failed request is
written down, too, and asked again the next time.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rollout.evaluation.lines import GrowingLines, read_lines

FILE = "replies.jsonl"


class ReplyKey(NamedTuple):
    """What a reply is to."""

    set: str
    id: str
    view: str
    prompt_sha256: str


@dataclass(frozen=True)
class Reply:
    """The outcome of one request."""

    reply: str
    finish_reason: str | None
    completion_tokens: int | None
    error: str | None  # None means that it was answered
    seconds: float

    @property
    def is_cut(self) -> bool:
        """Whether the limit of tokens ended it; it is judged all the same."""
        return self.finish_reason == "length"


NOT_ASKED = Reply("", None, None, "not asked yet", 0.0)


class Replies(GrowingLines):
    """The replies of one result, in memory by key, and on disk. Raises as `GrowingLines`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE)
        self._found = read_replies(folder)

    def get(self, key: ReplyKey) -> Reply | None:
        """The newest that was answered, else the newest failure."""
        return self._found.get(key)

    def add(self, key: ReplyKey, reply: Reply) -> None:
        """Keep a reply; DataError if the disk does not take it."""
        self.append({**key._asdict(), **asdict(reply)})
        self._found[key] = reply


def read_replies(folder: Path) -> dict[ReplyKey, Reply]:
    """What a result's folder holds. Raises DataError: it cannot be read."""
    found: dict[ReplyKey, Reply] = {}
    for line in read_lines(folder / FILE):
        key, reply = _parsed(line)
        if key is not None and (reply.error is None or key not in found):
            found[key] = reply
    return found


def _parsed(line: dict[str, Any]) -> tuple[ReplyKey | None, Reply]:
    try:
        key = ReplyKey(*(str(line[name]) for name in ReplyKey._fields))
        return key, Reply(**{name: line[name] for name in Reply.__dataclass_fields__})
    except KeyError:  # another program's line
        return None, NOT_ASKED
