"""The three hosts of `namespaces.py` do what hosts do; and what our code knows of its network."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.listening import ANYWHERE, LOOPBACK, Listening, listening
from tests.hosts.namespaces import HOSTS, INTERFACE, Hosts, hosts_or_skip, is_gone

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-c")
SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], 4000))
print("ready", flush=True)
while True:
    link = server.accept()[0]
    link.sendall(b"hello")
    while link.recv(100):
        pass
"""
# Prints one word a line: what becomes of the connection to the host whose address is given.
TALK = """
import socket, sys
link = socket.create_connection((sys.argv[1], 4000), 3)
print(link.recv(5).decode(), flush=True)
link.settimeout(float(sys.argv[2]))
try:
    print("closed" if not link.recv(5) else "data")
except TimeoutError:
    print("silent")
"""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with hosts_or_skip() as made:
        yield made


def serve(hosts: Hosts, host: str, address: str) -> "subprocess.Popen[bytes]":
    process = hosts.popen(host, (*PYTHON, SERVE, address), stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


def talk(hosts: Hosts, host: str, address: str, patience_s: float = 0.0) -> list[str]:
    return hosts.run(host, (*PYTHON, TALK, address, str(patience_s or 0.1))).split()


def test_hosts_reach_one_another_until_one_is_cut_off_and_again_when_it_is_healed(
    hosts: Hosts,
) -> None:
    serve(hosts, "a", hosts.address("a"))
    for host in HOSTS:
        assert talk(hosts, host, hosts.address("a")) == ["hello", "silent"]
    hosts.cut("b")
    with pytest.raises(AssertionError, match=r"TimeoutError|No route to host"):
        talk(hosts, "b", hosts.address("a"))
    assert talk(hosts, "c", hosts.address("a")) == ["hello", "silent"]
    hosts.heal("b")
    assert talk(hosts, "b", hosts.address("a")) == ["hello", "silent"]


def test_a_lost_host_does_not_say_goodbye(hosts: Hosts) -> None:
    server = serve(hosts, "a", hosts.address("a"))
    command = (*PYTHON, TALK, hosts.address("a"), "1.5")
    peer = hosts.popen("b", command, stdout=subprocess.PIPE)
    assert peer.stdout is not None and peer.stdout.readline() == b"hello\n"
    hosts.kill("a")
    assert server.wait() == -9 and hosts.pids("a") == []
    assert peer.stdout.readline() == b"silent\n"
    hosts.heal("a")  # the machine is back, and what was on it is not
    with pytest.raises(AssertionError, match="ConnectionRefusedError"):
        talk(hosts, "b", hosts.address("a"))


def test_it_is_seen_who_listens_where(hosts: Hosts) -> None:
    assert listening(hosts, "a") == []
    process = serve(hosts, "a", hosts.address("a"))
    (found,) = listening(hosts, "a")
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    assert found == Listening(hosts.address("a"), 4000, command.strip())
    serve(hosts, "b", "")
    serve(hosts, "c", "127.0.0.1")
    assert [one.address for one in listening(hosts, "b")] == [ANYWHERE]
    assert [one.address for one in listening(hosts, "c")] == [LOOPBACK]


def test_everything_is_gone_at_the_end() -> None:
    with hosts_or_skip() as hosts:
        process = serve(hosts, "a", hosts.address("a"))
        grandchild = (*PYTHON, "import subprocess; subprocess.run(('sleep', '600'))")
        hosts.popen("b", grandchild)
        deadline = time.monotonic() + 60
        while len(hosts.pids("b")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pids = [*hosts.pids("a"), *hosts.pids("b")]
        names = [hosts.namespace(host) for host in HOSTS]
    assert process.returncode == -9
    assert all(map(is_gone, pids))
    left = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True).stdout
    assert not any(name in left for name in names)


def test_the_interface_is_the_one_that_leads_to_the_others(hosts: Hosts) -> None:
    """Also where the machine's name means loopback, or an interface has two addresses."""
    second = ("ip", "address", "add", "10.78.0.1/24", "dev", INTERFACE, "label", f"{INTERFACE}:2")
    hosts.run("a", second)
    script = (
        "import sys; from common.network import interface_towards as i;"
        "print(*(i(host) for host in sys.argv[1:]))"
    )
    ways = {
        hosts.address("b"): INTERFACE,
        hosts.address("a"): INTERFACE,  # not lo, which leads to it as well
        "10.78.0.9": f"{INTERFACE}:2",
        "127.0.0.1": "lo",
        "127.0.1.1": "lo",
        "10.99.0.1": "None",  # no way
        "no-such-host.invalid": "None",
    }
    told = hosts.run("a", (*PYTHON, script, *ways), cwd=ROOT).split()
    assert dict(zip(ways, told, strict=True)) == ways


def test_gloo_meets_off_loopback_whatever_the_machine_is_called(hosts: Hosts) -> None:
    """A push group between two hosts: the learner's side and the embedded engine's."""
    learner = (
        "import sys, torch; from learner.push.group import PushGroup;"
        "group = PushGroup('g', sys.argv[1], 2, 'gloo', 20.0); print(group.port, flush=True);"
        "group.join(); group.broadcast(torch.arange(3.0)); sys.stdin.read(); group.close()"
    )
    engine = (
        # It leaves without the interpreter's end, in which torch's threads now and then abort.
        "import os, sys, torch; from rollout.embedded.weights import UpdateGroup;"
        "group = UpdateGroup(sys.argv[1], int(sys.argv[2]), 1, 2, 'g', 'gloo', 20.0);"
        "print(group.receive(['w'], [torch.float32], [[3]])[0][1].tolist(), flush=True);"
        "group.close(); os._exit(0)"
    )
    address = hosts.address("a")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT}
    sender = hosts.popen("a", (*PYTHON, learner, address), **pipes)
    assert sender.stdout is not None
    port = sender.stdout.readline().decode().strip()
    told = hosts.run("b", (*PYTHON, engine, address, port), cwd=ROOT)
    assert told.split() == ["[0.0,", "1.0,", "2.0]"]
    assert {one.address for one in listening(hosts, "a")} == {address}
    sender.communicate()
    assert sender.returncode == 0


def test_an_engine_is_not_asked_to_join_a_learner_that_cannot_be_reached(hosts: Hosts) -> None:
    script = (
        "import asyncio, sys; from common.types import GroupAddress;"
        "from rollout.weights import check_somebody_listens as check;"
        "group = GroupAddress(name='g', host=sys.argv[1], port=4000, backend='gloo', world_size=2);"
        "asyncio.run(check(group)); print('somebody')"
    )
    command = (*PYTHON, script, hosts.address("a"))
    with pytest.raises(AssertionError, match=r"EngineError: nothing listens at 10.77.0.1:4000"):
        hosts.run("b", command, cwd=ROOT)
    serve(hosts, "a", hosts.address("a"))
    assert hosts.run("b", command, cwd=ROOT) == "somebody\n"
    hosts.cut("b")
    with pytest.raises(AssertionError, match=r"EngineError: no answer from 10.77.0.1:4000"):
        hosts.run("b", command, cwd=ROOT)
