"""MessagePack frames <-> records. No pickle: the only types are maps, lists, scalars and arrays.

A frame is a map whose first key, "type", names the record's class. NumPy arrays travel as extension
type 1: MessagePack of [dtype, shape, little-endian bytes], dtypes from a short list.

A record may name a field, `attached`, whose byte strings travel behind the frame as they are: one
after the other in a second frame, for a frame costs system calls. The first has their lengths.

What a frame makes of itself in memory is bounded before it is read: a byte of MessagePack can
become an object of 64 bytes, and five bytes that announce an array an allocation of as many places
as they say. So each kind of message has a size, a longest array and a number of values (`Limits`).
"""

import math
import re
from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import msgpack
import numpy as np
from pydantic import BaseModel, ValidationError

from common.errors import ProtocolError

PROTOCOL_VERSION = 8
MAX_FRAME_BYTES = 64 * 2**20
MAX_DEPTH = 16
MAX_STRING_BYTES = 2**20
_ARRAY = 1
_TYPE = b"\xa4type"
_SHORT_STRING = 0xA0  # MessagePack's head of a string of fewer than 32 bytes, plus its length
_DTYPES = {"int32": np.dtype("<i4"), "float32": np.dtype("<f4")}
_ARRAY_HEAD = re.compile(  # up to the content: so nothing else in an array is ever unpacked
    rb"\x93[\xa5\xa7](?P<dtype>int32|float32)"
    rb"(?P<shape>[\x90-\x94](?:[\x00-\x7f]|\xcc.|\xcd..|\xce....){0,4})"
    rb"(?:\xc4(.)|\xc5(..)|\xc6(....))",
    re.DOTALL,
)
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Registry = Mapping[str, type[BaseModel]]


class Limits(NamedTuple):
    """How much one kind of message may hold."""

    max_bytes: int
    max_array: int  # elements
    max_map: int  # keys
    max_values: int  # values in all arrays and maps together


NO_LIMITS = Limits(2**62, 2**20, 2**20, 2**22)  # limits of messages from trusted senders
LimitsOf = Mapping[str, Limits]


def encode(record: BaseModel) -> bytes:
    """One record as one frame."""
    fields = {"type": type(record).__name__, **record.__dict__}
    frame: bytes = msgpack.packb(fields, default=_pack_other)
    return frame


def encode_message(record: BaseModel) -> list[bytes]:
    """One record as the frames of a message: what its field `attached` holds is the second."""
    field = getattr(record, "attached", None)
    attached = () if field is None else getattr(record, field)
    if not attached:
        return [encode(record)]
    fields: dict[str, Any] = {"type": type(record).__name__, **record.__dict__}
    fields[str(field)] = tuple(map(len, attached))
    return [msgpack.packb(fields, default=_pack_other), b"".join(attached)]


def decode(
    frame: bytes,
    registry: Registry,
    attached: bytes | None = None,
    *,
    max_bytes: int = MAX_FRAME_BYTES,
    limits: LimitsOf | None = None,
) -> BaseModel:
    """The record in a frame.

    Args:
        attached: the other frame of its message (`encode_message`); None means that it has none.
        limits: those of each kind of message from strangers; None means a trusted sender.

    Raises:
        ProtocolError: too large, too deep, not MessagePack, of unknown type, or with a bad field.
    """
    name = kind_of(frame)
    if name not in registry:
        raise ProtocolError(f"unknown message type {name!r}")
    limit = NO_LIMITS if limits is None else limits[name]
    fields = _unpack(frame, limit._replace(max_bytes=min(max_bytes, limit.max_bytes)))
    if limits is not None:
        _check_depth(fields, MAX_DEPTH)
    del fields["type"]
    if attached is not None:
        field = getattr(registry[name], "attached", None)
        if field is None:
            raise ProtocolError(f"{name} is one frame, not two")
        fields[field] = _cut(attached, fields.get(field))
    try:
        return registry[name].model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"{name}.{where}: {first['msg']}") from error


def _cut(attached: bytes, lengths: Any) -> tuple[bytes, ...]:
    """Byte strings of these lengths, which are all that is attached. Raises ProtocolError."""
    is_whole = (
        isinstance(lengths, tuple)
        and all(type(length) is int and length >= 0 for length in lengths)
        and sum(lengths) == len(attached)
    )
    if not is_whole:
        raise ProtocolError(f"{len(attached)} bytes are attached, its lengths say otherwise")
    return tuple(
        bytes(attached[start:end]) for start, end in pairwise(accumulate(lengths, initial=0))
    )


def kind_of(frame: bytes) -> str:
    """The name of a frame's message, without reading the rest of it.

    Raises:
        ProtocolError: it does not begin as `encode` begins one.
    """
    start = 3 if frame[:1] == b"\xde" else 1  # behind the head of a map: up to 15 keys, or more
    if frame[start : start + len(_TYPE)] != _TYPE:
        raise ProtocolError("not a MessagePack frame that begins with its type")
    start += len(_TYPE)
    length = frame[start] - _SHORT_STRING if start < len(frame) else -1
    name = frame[start + 1 : start + 1 + length] if 0 <= length < 32 else b""
    if not name or len(name) != length or not name.isalpha():
        raise ProtocolError("not a MessagePack frame that begins with its type")
    return name.decode("ascii")


def _unpack(frame: bytes, limits: Limits) -> dict[str, Any]:
    if len(frame) > limits.max_bytes:
        raise ProtocolError(f"frame of {len(frame)} bytes is over the limit of {limits.max_bytes}")
    # A value takes a byte at least: short frames need no counting.
    count = _counter(limits.max_values) if len(frame) > limits.max_values else None
    try:
        value = msgpack.unpackb(
            frame,
            ext_hook=_unpack_array,
            object_hook=count,
            list_hook=count,
            strict_map_key=True,
            use_list=False,
            raw=False,
            max_array_len=limits.max_array,
            max_map_len=limits.max_map,
            max_str_len=MAX_STRING_BYTES,
        )
    except ProtocolError:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not a MessagePack frame: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"a frame is a map, not {type(value).__name__}")
    return value


def _counter(allowed: int) -> Callable[[Any], Any]:
    """A hook that passes maps and arrays on, until they hold more than `allowed` values."""
    left = allowed

    def count(container: Any) -> Any:
        nonlocal left
        left -= 1 + len(container)
        if left < 0:
            raise ProtocolError(f"frame holds more than {allowed} values")
        return container

    return count


def _check_depth(value: Any, allowed: int) -> None:
    if allowed == 0:
        raise ProtocolError(f"frame nests deeper than {MAX_DEPTH} levels")
    children = value.values() if isinstance(value, dict) else value
    for child in children:
        if isinstance(child, dict | tuple):
            _check_depth(child, allowed - 1)


def _pack_other(value: Any) -> Any:
    """Records and arrays; everything else MessagePack packs by itself."""
    if isinstance(value, BaseModel):
        return value.__dict__
    if isinstance(value, np.ndarray) and value.dtype in _NAMES:
        content = np.ascontiguousarray(value).data
        return msgpack.ExtType(
            _ARRAY, msgpack.packb([_NAMES[value.dtype], list(value.shape), content])
        )
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _unpack_array(code: int, data: bytes) -> np.ndarray:
    if code != _ARRAY:
        raise ProtocolError(f"unknown extension type {code}")
    head = _ARRAY_HEAD.match(data)
    if head is None:
        raise ProtocolError("malformed array, or one of a dtype that is not allowed")
    dtype = _DTYPES[head["dtype"].decode()]
    try:
        shape = msgpack.unpackb(head["shape"], use_list=False)
    except ValueError as error:
        raise ProtocolError("malformed array") from error
    start, expected = head.end(), math.prod(shape) * dtype.itemsize if shape else 0
    told = int.from_bytes(head[head.lastindex or 0])
    if not expected == told == len(data) - start:
        raise ProtocolError(f"array of {len(data) - start} bytes, its shape says {expected}")
    array: np.ndarray = np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)
    return array
