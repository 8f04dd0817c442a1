"""The broker's connections when packets vanish: real sockets between two hosts."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.keys import make_keys
from tests.hosts.namespaces import Hosts, hosts_or_skip
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PORT = 5570
SILENCE_S = 2.0
# TCP tries again 0.2, 0.6, 1.4, 3, 6.2 and 12.6 s after it was first in vain: a connection that is
# cut off for so long would be of no use for five seconds after it is healed.
CUT_S = 7.0
SOON_S = 2.5
PLAYER = """
import asyncio, sys
from pathlib import Path
from common.config_cli import build
from broker.protocol import Role
from broker.net.transport import zmq_link, zmq_listener

async def answer(config):
    listener = zmq_listener(config.broker, config.broker.address)
    print(listener.open(), flush=True)
    while True:
        await listener.send((await listener.receive()).envelope)

async def ask(config):
    link = zmq_link(config.broker, Role.ROLLOUT)
    link.open(config.broker.address, 2**20)
    while True:
        await link.send([b"?", b"alive"])
        try:
            async with asyncio.timeout(0.2):
                while True:
                    await link.receive()
                    print("answered", flush=True)
        except TimeoutError:
            pass

role, address, keys, silence_s = sys.argv[1:]
broker = {"address": address, "keys": Path(keys), "member_timeout_s": float(silence_s)}
asyncio.run({"answer": answer, "ask": ask}[role](build({"broker": broker})))
"""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with hosts_or_skip() as made:
        yield made


def start(hosts: Hosts, host: str, role: str, folder: Path) -> Path:
    """Start one, and return the file to which it writes, which has a first line by then."""
    address = f"tcp://{hosts.address('a')}:{PORT}"
    words = (role, address, str(folder / "keys"), str(SILENCE_S))
    output = folder / role
    process = hosts.popen(host, (sys.executable, "-c", PLAYER, *words), output=output, cwd=ROOT)
    wait_until(lambda: output.stat().st_size > 0 and process.poll() is None, 60.0)
    return output


def connections(hosts: Hosts) -> int:
    """The number of connections that the listener's host has."""
    return len(hosts.run("a", ("ss", "-Htn", "state", "established")).splitlines())


def test_a_link_that_was_cut_off_is_of_use_again_soon_after_it_is_healed(
    hosts: Hosts, tmp_path: Path
) -> None:
    make_keys(tmp_path / "keys")
    start(hosts, "a", "answer", tmp_path)
    answers = start(hosts, "b", "ask", tmp_path)
    assert connections(hosts) == 1
    hosts.cut("b")
    time.sleep(CUT_S)
    assert connections(hosts) == 0, "the listener keeps a connection with nobody"
    before = answers.stat().st_size
    hosts.heal("b")
    wait_until(lambda: answers.stat().st_size > before, SOON_S)


def test_a_listener_forgets_a_host_that_is_lost(hosts: Hosts, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys")
    start(hosts, "a", "answer", tmp_path)
    start(hosts, "b", "ask", tmp_path)
    assert connections(hosts) == 1
    hosts.kill("b")
    wait_until(lambda: connections(hosts) == 0, 3 * SILENCE_S)
