"""Records in the journal file: framed, checksummed, and told from a torn end when damaged.

    record:  "VOPD" | length of the body, uint32 | CRC-32 of number and body, uint32 | body
    body:    MessagePack of [number, seconds, command, arguments, outcome]; numbers count from 0

A process that is killed, or a machine that loses power, leaves a torn end: nothing behind it can be
read. Damage with a whole record behind it is something else (a failing disk, an edit): what lies
behind was acknowledged, so reading refuses to drop it.
"""

import mmap
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgpack

from common.errors import VisionOpdError

_MARK = b"VOPD"
_HEAD = struct.Struct("<4sII")


class CorruptJournal(VisionOpdError):
    """Damage in the middle of the journal."""


class Record(NamedTuple):
    """One record of the journal."""

    number: int
    seconds: float  # time on the broker's clock
    command: str
    arguments: tuple[Any, ...]
    outcome: Any
    end: int  # offset of the byte behind it


def encode_record(
    number: int, seconds: float, command: str, arguments: tuple[Any, ...], outcome: Any
) -> bytes:
    body: bytes = msgpack.packb((number, seconds, command, arguments, outcome))
    return _HEAD.pack(_MARK, len(body), _checksum(number, body)) + body


def read_records(content: bytes | mmap.mmap) -> Iterator[Record]:
    """Read the records from the start of a journal to its end, or to where it is torn.

    Raises:
        CorruptJournal: damage before the end.
    """
    offset = number = 0
    while offset < len(content):
        record = _record_at(content, offset, number)
        if record is None:
            _check_torn(content, offset, number)
            return
        yield record
        offset, number = record.end, number + 1


def _record_at(content: bytes | mmap.mmap, offset: int, number: int) -> Record | None:
    """The record at `offset` if it is whole and has this number; None otherwise."""
    start = offset + _HEAD.size
    if start > len(content):
        return None
    mark, length, checksum = _HEAD.unpack_from(content, offset)
    body = content[start : start + length]
    if mark != _MARK or len(body) != length or checksum != _checksum(number, body):
        return None
    fields = msgpack.unpackb(body, use_list=False, strict_map_key=False)
    _, seconds, command, arguments, outcome = fields
    return Record(number, seconds, command, arguments, outcome, start + length)


def _check_torn(content: bytes | mmap.mmap, damaged: int, number: int) -> None:
    """Raise if a whole later record lies behind the damage."""
    at = content.find(_MARK, damaged + 1)
    while at != -1:
        found = _any_record_at(content, at)
        if found is not None and found > number:
            raise CorruptJournal(
                f"record {number} at byte {damaged} is damaged, but record {found} after it is not"
            )
        at = content.find(_MARK, at + 1)


def _any_record_at(content: bytes | mmap.mmap, offset: int) -> int | None:
    """The number of a whole record at `offset`; None means that there is none."""
    start = offset + _HEAD.size
    if start > len(content):
        return None
    _, length, checksum = _HEAD.unpack_from(content, offset)
    body = content[start : start + length]
    if len(body) != length:
        return None
    try:
        number = msgpack.unpackb(body, use_list=False, strict_map_key=False)[0]
    except (ValueError, TypeError, IndexError, msgpack.UnpackException):
        return None
    is_whole = isinstance(number, int) and number >= 0 and checksum == _checksum(number, body)
    return number if is_whole else None


def _checksum(number: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(number.to_bytes(8, "little")))
