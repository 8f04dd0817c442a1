"""Which processes of a host listen where, read from the kernel's tables."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.hosts.namespaces import Hosts

ANYWHERE = "0.0.0.0"  # at all addresses of the host, IPv6's too
LOOPBACK = "127.0.0.1"  # IPv6's too
_LISTENING = "0A"  # state of a socket in /proc/net/tcp
_LOOPBACK_IPV6 = "00000000000000000000000001000000"


class Listening(NamedTuple):
    """A TCP socket that listens."""

    address: str
    port: int
    command: str  # line of the process that has it, "?" where that is gone


def listening(hosts: Hosts, host: str) -> list[Listening]:
    owners = {inode: pid for pid in hosts.pids(host) for inode in _sockets_of(pid)}
    return [
        Listening(_readable(address), int(port, 16), _command_of(owners.get(inode)))
        for table in ("tcp", "tcp6")
        for line in hosts.run(host, ("cat", f"/proc/self/net/{table}")).splitlines()[1:]
        for address, _, port in [line.split()[1].partition(":")]
        for state, inode in [(line.split()[3], line.split()[9])]
        if state == _LISTENING
    ]


def listening_ports(pid: int) -> list[int]:
    """Ports of a process of this machine, by IPv4."""
    inodes = set(_sockets_of(pid))
    rows = (line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:])
    return [
        int(row[1].rpartition(":")[2], 16)
        for row in rows
        if row[3] == _LISTENING and row[9] in inodes
    ]


def _sockets_of(pid: int) -> Iterator[str]:
    """Inode numbers."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(descriptor)
                if target.startswith("socket:["):
                    yield target.removeprefix("socket:[").removesuffix("]")


def _command_of(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return "?"


def _readable(address: str) -> str:
    """From the kernel's hexadecimal: words of 4 bytes, the last of which holds an IPv4 address."""
    if set(address) == {"0"}:
        return ANYWHERE
    if address == _LOOPBACK_IPV6:
        return LOOPBACK
    return ".".join(str(byte) for byte in bytes.fromhex(address[-8:])[::-1])
