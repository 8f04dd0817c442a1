"""Files of trajectories: Arrow IPC streams that any Arrow reader opens, one record batch a group.

A segment is a schema message and then one message a group, as it came from the rollout server
(`common.group_batch`); it need not be closed to be read. Where a group lies, and the checksum of
its bytes, is in the journal. Rows are trajectories.
"""

import zlib
from typing import NamedTuple

from common.group_batch import schema


class Place(NamedTuple):
    """Where a group lies."""

    segment: str
    offset: int
    length: int
    checksum: int  # CRC-32 of those bytes

    def holds(self, content: bytes) -> bool:
        """Whether these are the bytes that were written there."""
        return len(content) == self.length and zlib.crc32(content) == self.checksum


def segment_name(number: int) -> str:
    return f"segment-{number:06d}.arrow"


def segment_head() -> bytes:
    """The first bytes of every segment."""
    head: bytes = schema().serialize().to_pybytes()
    return head
