"""Which of this machine's network interfaces leads to another process.

gloo listens on the interface of the machine's name unless it is told another. That one may be
loopback where the others are on other machines, may lead nowhere, or show the group to everybody.
"""

import array
import contextlib
import errno
import ipaddress
import os
import random
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_ANY_PORT = 9  # nothing is sent there
_ELSEWHERE = "192.0.2.1"  # an address that no machine has (RFC 5737)
_ELSEWHERE_IPV6 = "2001:db8::1"  # an IPv6 address that no machine has (RFC 3849)
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # Linux: first and last
_CHOSEN_PORTS = (20_000, 30_000)  # from there on, Kubernetes gives them away
_FEWEST_PORTS = 1000  # to choose one from
_PORTS_TRIED = 32
_IPV6_TABLE = Path("/proc/net/if_inet6")  # Linux: address, index, prefix, scope, flags, interface
_SIOCGIFCONF = 0x8912  # Linux: all interfaces that have an IPv4 address
_ENTRY = struct.Struct("16s 2x 2x 4s 16x")  # part of its answer: name, family, port, address
_MAX_ADDRESSES = 4096


def is_loopback(host: str) -> bool:
    """Whether an address or a name is this machine's loopback. False for an unknown name."""
    try:
        return ipaddress.ip_address(_resolved(host)).is_loopback
    except (OSError, ValueError):
        return False


def local_address_towards(host: str) -> str | None:
    """This machine's address on the way to `host`; None if there is no way or host.

    Of a host that has both, the IPv4 address counts.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, _ANY_PORT))  # only looks up the route: nothing is sent
            address: str = probe.getsockname()[0]
            return address
    return None


def primary_host() -> str:
    """The address from which this machine reaches others; its name if it reaches none."""
    return (
        local_address_towards(_ELSEWHERE)
        or local_address_towards(_ELSEWHERE_IPV6)
        or socket.gethostname()
    )


def free_port(host: str) -> int:
    """A port of this machine's address `host` that nothing has at this moment. Raises OSError.

    Its server may bind it many seconds later. So it is none of those that the system gives
    meanwhile to connections and to programs that ask for any port: a client that tries a port in
    vain could even be given that same port, and be connected to itself.
    """
    for port in _ports_not_given_away():
        try:
            with listening_socket(host, port):
                return port
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    with listening_socket(host) as probe:
        chosen: int = probe.getsockname()[1]
        return chosen


def _ports_not_given_away() -> list[int]:
    """Some ports below those that the system gives away, in any order; none where it has them."""
    try:
        first = int(_PORT_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return []
    lowest, end = _CHOSEN_PORTS
    ports = range(lowest, min(end, first))
    return random.sample(ports, _PORTS_TRIED) if len(ports) >= _FEWEST_PORTS else []


def listening_socket(host: str, port: int = 0) -> socket.socket:
    """A socket that listens at an address of this machine, IPv4 or IPv6. Raises OSError.

    Args:
        host: an address or a name; the IPv4 address of a name that has both is taken.
        port: 0 means one that is free.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return socket.create_server(address[:2], family=family, backlog=128)


def interface_towards(host: str) -> str | None:
    """The interface with this machine's address on the way to `host`, as gloo has to be told it.

    For an address of this machine that is the interface which has it, not loopback, so that
    processes of other machines can join.

    Returns:
        None where it cannot be told: no such host, no way there, or a system beside Linux.
    """
    address = local_address_towards(host)
    if address is None or sys.platform != "linux":
        return None
    for name, found in (*_ipv4_addresses(), *_ipv6_addresses()):
        if found == address:
            return name
    # All of 127.0.0.0/8 is loopback's, although it has one address only.
    return "lo" if is_loopback(address) and "lo" in _names() else None


@contextlib.contextmanager
def gloo_towards(host: str) -> Iterator[None]:
    """A gloo group that is made inside talks through the interface that leads to `host`.

    A GLOO_SOCKET_IFNAME that is set already (a user's, the launcher's) stays. Whatever was chosen
    here is forgotten at the end: the next group may be with others.
    """
    interface = None if os.environ.get(GLOO_INTERFACE) else interface_towards(host)
    if interface is None:
        yield
        return
    os.environ[GLOO_INTERFACE] = interface
    try:
        yield
    finally:
        os.environ.pop(GLOO_INTERFACE, None)


def _resolved(host: str) -> str:
    return host.strip("[]") if ":" in host else socket.gethostbyname(host)


def _names() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def _ipv4_addresses() -> Iterator[tuple[str, str]]:
    """Pairs (interface, address), the further addresses of an interface too."""
    import fcntl

    buffer = array.array("B", bytes(_MAX_ADDRESSES * _ENTRY.size))
    request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFCONF, request)
    (size,) = struct.unpack_from("i", answer)
    for name, address in _ENTRY.iter_unpack(buffer.tobytes()[:size]):
        yield name.rstrip(b"\0").decode(), socket.inet_ntoa(address)


def _ipv6_addresses() -> Iterator[tuple[str, str]]:
    try:
        lines = _IPV6_TABLE.read_text(encoding="ascii").splitlines()
    except OSError:  # a kernel without IPv6
        return
    for line in lines:
        digits, *_, name = line.split()
        yield name, str(ipaddress.IPv6Address(int(digits, 16)))
