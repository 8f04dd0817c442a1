"""What a hostile or broken peer can do to a live broker: nothing but get an error."""

import asyncio
import os

import msgpack
import zmq
import zmq.asyncio

from broker.protocol import REPLIES, GetStatus, Refused, Status
from common.wire import decode, encode
from tests.broker.support import Running, make_rules, make_source, running_broker
from tests.waiting import LIMIT_S

LIMIT = 20_000


async def exchange(broker: Running, *parts: bytes, wait_s: float = LIMIT_S) -> list[bytes]:
    """Send raw parts over a connection of its own; the raw reply, or [] when none comes."""
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(broker.address)
        await socket.send_multipart(parts)
        try:
            async with asyncio.timeout(wait_s):
                return await socket.recv_multipart()
        except TimeoutError:
            return []


async def is_alive(broker: Running) -> bool:
    reply = await exchange(broker, b"12345678", encode(GetStatus()))
    return isinstance(decode(reply[1], REPLIES), Status)


async def test_malformed_frames_get_an_error_and_harm_nobody() -> None:
    nested = b"\x81\xa1x" + b"\x91" * 900 + b"\x01"
    frames = [b"", b"\xc1", os.urandom(100), nested, msgpack.packb({"type": "Hello"})]
    frames += [
        encode(GetStatus())[:-1],
        msgpack.packb({"type": "Welcome"}),
        b"\xdd\xff\xff\xff\xff",
    ]
    async with running_broker(make_rules(), make_source(4), max_frame_bytes=LIMIT) as broker:
        for frame in frames:
            request_id, reply = await exchange(broker, b"12345678", frame)
            refused = decode(reply, REPLIES)
            assert isinstance(refused, Refused) and refused.code == "malformed"
            assert request_id == b"12345678"
        assert await is_alive(broker)


async def test_malformed_envelopes_get_an_error() -> None:
    good = encode(GetStatus())
    async with running_broker(make_rules(), make_source(4), max_frame_bytes=LIMIT) as broker:
        large = (b"12345678", *[bytes(LIMIT * 3 // 4)] * 2)
        for parts, reason in [
            ((good,), "envelope"),
            ((b"short", good), "envelope"),
            ((b"12345678", good, good), "GetStatus is one frame, not two"),
            ((b"", b"", b"", b""), "envelope"),
            ((b"12345678", good, b"", b""), "envelope"),
            (large, "an envelope of 300"),
        ]:
            request_id, reply = await exchange(broker, *parts)
            refused = decode(reply, REPLIES)
            assert isinstance(refused, Refused) and refused.code == "malformed"
            assert reason in refused.message
            assert len(request_id) == 8
        assert await is_alive(broker)


async def test_a_frame_over_the_limit_costs_its_sender_the_connection() -> None:
    async with running_broker(make_rules(), make_source(4), max_frame_bytes=LIMIT) as broker:
        # Long enough for an answer that must not come.
        assert await exchange(broker, b"12345678", b"\x00" * (LIMIT + 1), wait_s=0.3) == []
        assert await is_alive(broker)


async def test_bytes_that_are_not_zeromq_are_ignored() -> None:
    async with running_broker(make_rules(), make_source(4), max_frame_bytes=LIMIT) as broker:
        host, port = broker.address.removeprefix("tcp://").split(":")
        for content in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000), b"\xff" + b"\x00" * 64):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(content)
            await writer.drain()
            writer.close()
        assert await is_alive(broker)


async def test_a_flood_of_malformed_frames_leaves_the_broker_answering() -> None:
    async with running_broker(make_rules(), make_source(4), max_frame_bytes=LIMIT) as broker:
        with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(broker.address)
            for _ in range(2000):
                await socket.send_multipart([b"12345678", os.urandom(20)])
            assert await is_alive(broker)
