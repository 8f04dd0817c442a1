"""What leads where; tests/hosts/test_namespaces.py has hosts with several interfaces."""

import os
import socket

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
