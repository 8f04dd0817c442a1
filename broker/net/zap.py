"""The right to connect to a broker that has keys, and the role that a key stands for."""

import asyncio
import logging
from collections.abc import Mapping

import zmq
from zmq.utils import z85

from broker.net.sockets import AsyncSocket
from broker.protocol import Role

logger = logging.getLogger(__name__)


class ZapAuthenticator:
    """Answers the question that ZeroMQ asks at each CURVE handshake: may this key connect?

    The questions and answers are ZAP (RFC 27) and come from inside the process alone. The answer
    names the role that the key stands for as the user; ZeroMQ hands that on with each message of
    the connection (`role_of`).
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], public: Mapping[Role, bytes]
    ) -> None:
        self._roles = {z85.decode(key): role for role, key in public.items()}
        self._num_refused = 0
        self._socket = AsyncSocket(context, zmq.REP)
        self._socket.zmq.bind("inproc://zeromq.zap.01")
        self._task = asyncio.create_task(self._answer(), name="zap")

    async def _answer(self) -> None:
        while True:
            parts = [frame.bytes for frame in await self._socket.receive()]
            version, number, _, peer, _, mechanism, *keys = parts
            role = self._roles.get(keys[0]) if mechanism == b"CURVE" and len(keys) == 1 else None
            if role is None:
                self._note_refusal(peer)
                verdict, user = (b"400", b"not a key of this run"), b""
            else:
                verdict, user = (b"200", b"OK"), role.value.encode()
            await self._socket.send([version, number, *verdict, user, b""])

    def _note_refusal(self, peer: bytes) -> None:
        self._num_refused += 1
        if self._num_refused.bit_count() == 1:  # the 1st, 2nd, 4th, 8th...: a flood stays short
            logger.warning(
                "a connection from %s has none of this run's keys (%d so far)",
                peer.decode("ascii", "replace"),
                self._num_refused,
            )

    def close(self) -> None:
        self._task.cancel()
        self._socket.close(0)


def role_of(frame: zmq.Frame) -> Role:
    """The role of the key of the connection that a frame came over. Raises if it has none."""
    return Role(str(frame.get("User-Id")))
