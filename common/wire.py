"""MessagePack frames <-> records. No pickle: the only types are maps, lists, scalars and arrays.

A frame is a map with one extra key, "type", that names the record's class. NumPy arrays travel as
extension type 1: MessagePack of [dtype, shape, little-endian bytes], dtypes from a short list.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from pydantic import BaseModel, ValidationError

from common.errors import ProtocolError

PROTOCOL_VERSION = 4
MAX_FRAME_BYTES = 64 * 2**20
MAX_DEPTH = 16
_ARRAY = 1
_DTYPES = {"int32": np.dtype("<i4"), "float32": np.dtype("<f4")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Registry = Mapping[str, type[BaseModel]]


def encode(record: BaseModel) -> bytes:
    """One record as one frame."""
    fields = {"type": type(record).__name__, **record.__dict__}
    frame: bytes = msgpack.packb(fields, default=_pack_other)
    return frame


def decode(frame: bytes, registry: Registry, *, max_bytes: int = MAX_FRAME_BYTES) -> BaseModel:
    """The record in a frame.

    Raises:
        ProtocolError: too large, too deep, not MessagePack, of unknown type, or with a bad field.
    """
    fields = _unpack(frame, max_bytes)
    name = fields.pop("type", None)
    if not isinstance(name, str) or name not in registry:
        raise ProtocolError(f"unknown message type {str(name)[:60]!r}")
    try:
        return registry[name].model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(f"{name}.{where}: {first['msg']}") from error


def _unpack(frame: bytes, max_bytes: int) -> dict[str, Any]:
    if len(frame) > max_bytes:
        raise ProtocolError(f"frame of {len(frame)} bytes is over the limit of {max_bytes}")
    try:
        value = msgpack.unpackb(
            frame, ext_hook=_unpack_array, strict_map_key=True, use_list=False, raw=False
        )
    except ProtocolError:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not a MessagePack frame: {error}") from error
    if not isinstance(value, dict):
        raise ProtocolError(f"a frame is a map, not {type(value).__name__}")
    _check_depth(value, MAX_DEPTH)
    return value


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
    parts = msgpack.unpackb(data, use_list=False)
    if not (isinstance(parts, tuple) and len(parts) == 3):
        raise ProtocolError("malformed array")
    name, shape, content = parts
    if not isinstance(name, str) or name not in _DTYPES:
        raise ProtocolError(f"dtype {str(name)[:20]!r} is not allowed")
    is_shape = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    if not is_shape or not isinstance(content, bytes) or len(shape) > 4:
        raise ProtocolError("malformed array")
    expected = math.prod(shape) * _DTYPES[name].itemsize if shape else 0
    if expected != len(content):
        raise ProtocolError(f"array of {len(content)} bytes, its shape says {expected}")
    array: np.ndarray = np.frombuffer(content, dtype=_DTYPES[name]).reshape(shape)
    return array
