"""Messages of one text and some arrays over a local stream socket; nothing is pickled.

    8 bytes     length of the head, big-endian
    head        JSON: {"text": str, "arrays": [[dtype, shape], ...]}
    arrays      their bytes, C order, one after the other

Arrays are received straight into their own memory. A socket needs no name in the file system or in
/dev/shm, so nothing is left over when either side dies, and its end is noticed at once. (It is also
faster than fresh shared memory, whose pages have to be made first.)
"""

import json
import math
import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

_LENGTH = struct.Struct("!Q")
_MAX_HEAD_BYTES = 2**24
_MAX_ARRAY_BYTES = 2**34
_DTYPES = ("int64", "uint8")


class LinkClosed(Exception):
    """The other side has ended, or sent what is no message."""


class ArrayLink:
    """Owns `end`, one end of a socket pair. One thread may use it at a time.

    Both methods raise LinkClosed, and TimeoutError after `end`'s timeout without progress.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, text: str, arrays: Sequence[np.ndarray] = ()) -> None:
        """Send `text` and int64 or uint8 arrays."""
        blocks = [np.ascontiguousarray(array) for array in arrays]
        kinds = [[block.dtype.name, list(block.shape)] for block in blocks]
        head = json.dumps({"text": text, "arrays": kinds}).encode()
        try:
            self._end.sendall(_LENGTH.pack(len(head)) + head)
            for block in blocks:
                self._end.sendall(block.reshape(-1).view(np.uint8).data)
        except TimeoutError:
            raise
        except OSError as error:
            raise LinkClosed(str(error)) from error

    def receive(self) -> tuple[str, list[np.ndarray]]:
        """The next message; waits for it."""
        (length,) = _LENGTH.unpack(self._receive_bytes(_LENGTH.size))
        if length > _MAX_HEAD_BYTES:
            raise LinkClosed(f"a head of {length} bytes, {_MAX_HEAD_BYTES} are allowed")
        try:
            head = json.loads(self._receive_bytes(length))
            text, kinds = (
                str(head["text"]),
                [(str(d), list(map(int, s))) for d, s in head["arrays"]],
            )
        except (ValueError, TypeError, LookupError) as error:
            raise LinkClosed(f"a head that cannot be read: {error}") from error
        return text, [self._receive_array(*kind) for kind in kinds]

    def set_timeout(self, seconds: float) -> None:
        """How long it may wait for the next byte, or to get rid of one."""
        self._end.settimeout(seconds)

    def hang_up(self) -> None:
        """Make both sides raise LinkClosed, whichever thread waits. Safe from any thread."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side was faster

    def close(self) -> None:
        self._end.close()

    def _receive_array(self, dtype: str, shape: Sequence[int]) -> np.ndarray:
        if (
            dtype not in _DTYPES
            or min(shape, default=0) < 0
            or np.dtype(dtype).itemsize * math.prod(shape) > _MAX_ARRAY_BYTES
        ):
            raise LinkClosed(f"an array of {dtype} {list(shape)} is not expected")
        array = np.empty(tuple(shape), dtype=dtype)
        self._fill(array.reshape(-1).view(np.uint8).data)
        return array

    def _receive_bytes(self, length: int) -> bytes:
        content = bytearray(length)
        self._fill(memoryview(content))
        return bytes(content)

    def _fill(self, memory: Any) -> None:
        filled = 0
        while filled < len(memory):
            try:
                count = self._end.recv_into(memory[filled:])
            except TimeoutError:
                raise
            except OSError as error:
                raise LinkClosed(str(error)) from error
            if count == 0:
                raise LinkClosed("the other side has ended")
            filled += count
