"""Who may connect to a broker that has keys."""

import asyncio
import logging

import zmq
import zmq.asyncio
from zmq.utils import z85

logger = logging.getLogger(__name__)


class Doorkeeper:
    """Answers the question that ZeroMQ asks at each CURVE handshake: may this key come in?

    The questions and answers are ZAP (RFC 27) and come from inside the process alone.
    """

    def __init__(self, context: zmq.asyncio.Context, member_public: bytes) -> None:
        self._member = z85.decode(member_public)
        self._num_refused = 0
        self._socket = context.socket(zmq.REP)
        self._socket.bind("inproc://zeromq.zap.01")
        self._task = asyncio.create_task(self._answer(), name="doorkeeper")

    async def _answer(self) -> None:
        while True:
            version, number, _, peer, _, mechanism, *keys = await self._socket.recv_multipart()
            is_member = mechanism == b"CURVE" and keys == [self._member]
            if not is_member:
                self._note_refusal(peer)
            verdict = (b"200", b"OK") if is_member else (b"400", b"not the members' key")
            await self._socket.send_multipart([version, number, *verdict, b"", b""])

    def _note_refusal(self, peer: bytes) -> None:
        self._num_refused += 1
        if self._num_refused.bit_count() == 1:  # the 1st, 2nd, 4th, 8th...: a flood stays short
            logger.warning(
                "a connection from %s has another key than the members' (%d so far)",
                peer.decode("ascii", "replace"),
                self._num_refused,
            )

    def close(self) -> None:
        self._task.cancel()
        self._socket.close(linger=0)
