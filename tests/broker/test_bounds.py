"""What clients can make a real broker hold: floods, giant frames and readers that do not read."""

import contextlib
import os
import re
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from broker.client import BrokerClient
from broker.protocol import GetStatus, Role, Verdict
from common.errors import ProtocolError
from common.wire import encode
from tests.broker.support import make_group, process, submission

MIB = 2**20
FRAME = MIB  # --broker.max_frame_mib 1
# 16 requests and 256 replies a connection may wait, of which requests can be a frame long
ALLOWED = 48 * MIB


def peak_bytes(pid: int) -> int:
    """The most memory that a process has ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def answers(address: str) -> bool:
    async with BrokerClient(address, "observer-1", Role.OBSERVER) as observer:
        return (await observer.status()).version == 0


@contextlib.asynccontextmanager
async def raw(address: str):
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        yield socket


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
async def test_memory_stays_bounded_whatever_clients_send(tmp_path: Path) -> None:
    with process(tmp_path, "--broker.max_frame_mib", "1") as (broker, address):
        async with BrokerClient(address, "rollout-0", Role.ROLLOUT) as rollout:
            assert await answers(address)
            before = peak_bytes(broker.pid)
            leases = (await rollout.lease(1024, 0, wait_s=0)).leases
            assert len(leases) == 2  # the slots: a learner that is slow or away stops leasing
            big = make_group(leases[0], 0, tokens=50_000)  # 800 KB
            assert await rollout.submit(big) is Verdict.ACCEPTED

            async with raw(address) as socket:  # the same group 500 times, and no reply is read
                me = {"member_id": "rollout-0", "incarnation": rollout._incarnation}
                frame = encode(submission(me, big))
                for number in range(500):
                    await socket.send_multipart([number.to_bytes(8), frame])
            async with raw(address) as socket:  # 20,000 questions, and no answer is read
                for number in range(20_000):
                    await socket.send_multipart([number.to_bytes(8), encode(GetStatus())])
            async with raw(address) as socket:
                await socket.send_multipart([b"12345678", os.urandom(100 * MIB)])
                assert await answers(address)
            assert peak_bytes(broker.pid) - before < ALLOWED


async def test_a_giant_message_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with process(tmp_path, "--broker.max_frame_mib", "1") as (_, address):
        async with BrokerClient(address, "rollout-0", Role.ROLLOUT) as rollout:
            (lease, _) = (await rollout.lease(2, 0, wait_s=0)).leases
            with pytest.raises(ProtocolError, match=r"limit of 1048576. Fix: raise broker.max_f"):
                await rollout.submit(make_group(lease, 0, tokens=100_000))
            assert await rollout.submit(make_group(lease, 0)) is Verdict.ACCEPTED
