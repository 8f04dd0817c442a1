"""Where processes can be reached: their TCP ports and Unix sockets, from the kernel's tables."""

import contextlib
import ipaddress
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_LISTENING_TCP = "0A"  # state in /proc/net/tcp
_LISTENING_UNIX = "00010000"  # flags in /proc/net/unix: it accepts connections


class Port(NamedTuple):
    """A TCP socket that listens."""

    host: str
    port: int
    pid: int
    command: str

    @property
    def is_on_loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback


def tcp_ports(pids: Iterable[int]) -> list[Port]:
    """Where these processes listen, each port once."""
    owners = {inode: pid for pid in pids for inode in _sockets_of(pid)}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENING_TCP and (pid := owners.get(rest[5])) is not None:
                address, _, port = local.partition(":")
                found.append(Port(_readable(address), int(port, 16), pid, command_of(pid)))
    return sorted(found)


def unix_sockets(pids: Iterable[int]) -> set[str]:
    """Names of those that listen; @ begins an abstract name, which no file's rights protect."""
    inodes = {inode for pid in pids for inode in _sockets_of(pid)}
    lines = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {
        words[7]
        for words in lines
        if len(words) > 7 and words[6] in inodes and words[3] == _LISTENING_UNIX
    }


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return "?"


def _sockets_of(pid: int) -> set[str]:
    """Inode numbers."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(descriptor)
                if target.startswith("socket:["):
                    found.add(target.removeprefix("socket:[").removesuffix("]"))
    return found


def _readable(address: str) -> str:
    """An address from the kernel's hexadecimal: words of 4 bytes in the machine's order."""
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return str(getattr(address, "ipv4_mapped", None) or address)
