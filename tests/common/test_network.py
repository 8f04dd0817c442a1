"""What leads where; tests/hosts/test_namespaces.py has hosts with several interfaces."""

import os
import socket
import sys
from pathlib import Path

import pytest

from common import network
from common.network import GLOO_INTERFACE, gloo_towards, interface_towards, is_loopback

HAS_IPV6 = network.local_address_towards("::1") == "::1"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("fd00::1", False),
        ("no-such-host.invalid", False),
    ],
)
def test_loopback_is_told_from_the_network(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_loopback_is_reached_through_its_interface() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    if HAS_IPV6:
        assert interface_towards("::1") == "lo"
    assert interface_towards("no-such-host.invalid") is None


def test_gloo_is_told_the_interface_only_while_its_group_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(GLOO_INTERFACE, raising=False)
    with gloo_towards("127.0.0.1"):
        assert os.environ[GLOO_INTERFACE] == "lo"
    assert GLOO_INTERFACE not in os.environ
    with gloo_towards("no-such-host.invalid"):  # whoever connects says it better
        assert GLOO_INTERFACE not in os.environ
    with pytest.raises(RuntimeError), gloo_towards("127.0.0.1"):
        raise RuntimeError("the group was not made")
    assert GLOO_INTERFACE not in os.environ


def test_an_interface_that_somebody_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GLOO_INTERFACE, "ib0")
    monkeypatch.setattr(network, "interface_towards", lambda host: "eth0")
    with gloo_towards("10.0.0.1"):
        assert os.environ[GLOO_INTERFACE] == "ib0"
    assert os.environ[GLOO_INTERFACE] == "ib0"


def ports_given_away(first: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = tmp_path / "range"
    told.write_text(f"{first}\t60999\n")
    monkeypatch.setattr(network, "_PORT_RANGE", told)


def test_a_free_port_is_none_that_the_system_gives_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ports_given_away(25_000, monkeypatch, tmp_path)
    ports = {network.free_port("127.0.0.1") for _ in range(20)}
    assert len(ports) > 10 and all(20_000 <= port < 25_000 for port in ports)


@pytest.mark.parametrize("first", [1024, 20_010])
def test_where_the_system_gives_all_away_it_is_asked_for_one(
    first: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ports_given_away(first, monkeypatch, tmp_path)
    assert network._ports_not_given_away() == []
    assert 0 < network.free_port("127.0.0.1") < 65536


def test_no_port_is_free_at_another_machines_address() -> None:
    with pytest.raises(OSError):
        network.free_port("192.0.2.1")


def test_a_port_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with network.listening_socket("127.0.0.1") as taken:
        ports = [taken.getsockname()[1], free := network.free_port("127.0.0.1")]
        monkeypatch.setattr(network, "_ports_not_given_away", lambda: ports)
        assert network.free_port("127.0.0.1") == free


def test_a_name_that_is_not_known_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fail(host: str, *arguments: object, **named: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(socket.gaierror):
        network.free_port("somewhere.invalid")
    assert asked == ["somewhere.invalid"]


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_a_client_may_be_given_the_port_that_it_asks_in_vain() -> None:
    """Why a free port is none of those."""
    port = network.free_port("127.0.0.1")
    with socket.socket() as client:
        client.bind(("127.0.0.1", port))  # as connect() does by itself, now and then
        client.connect(("127.0.0.1", port))
        assert client.getpeername() == client.getsockname()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        pytest.param("::1", marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
    ],
)
def test_one_can_listen_at_every_kind_of_address(host: str) -> None:
    assert 0 < network.free_port(host) < 65536
    with network.listening_socket(host) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection((host, port), timeout=5):
            pass
        with pytest.raises(OSError, match=r"already in use"):
            network.listening_socket(host, port)
