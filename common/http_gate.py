"""Who may use an HTTP port of ours: decided from a request's head alone, before any work.

Three questions, in this order:

    Host            names the address that is listened on. A web page whose name was pointed at this
                    machine (DNS rebinding) sends its own name
    Origin          is absent, and Sec-Fetch-Site says no other site: no browser is a client of ours
    Authorization   is "Bearer KEY", compared in constant time

rollout/sglang/launch.py reads this file by its path, in an environment that has nothing of ours:
standard library only.
"""

import functools
import hmac
import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_OTHER_SITES = ("cross-site", "same-site")


class GateRefusal(NamedTuple):
    status: int  # HTTP
    reason: str


class Gate:
    """The rule for one port.

    Args:
        host: address or name that the port listens on.
        key: the key that every request must carry; None means that none is asked for.
    """

    def __init__(self, host: str, key: str | None) -> None:
        self._host = _plain(host)
        self._is_any, self._is_loopback = _is_any(self._host), names_loopback(self._host)
        self._expected = None if key is None else f"Bearer {key}".encode()

    def refusal(self, head: Iterable[tuple[str, str]]) -> GateRefusal | None:
        """Why a request is turned away; None means that it may pass.

        Args:
            head: its header fields in order, (name, value), names in any case.
        """
        fields: dict[str, list[str]] = {}
        for name, value in head:
            fields.setdefault(name.lower(), []).append(value)
        return (
            self._host_refusal(fields.get("host", []))
            or _site_refusal(fields)
            or self._key_refusal(fields.get("authorization", []))
        )

    def _host_refusal(self, hosts: list[str]) -> GateRefusal | None:
        name = _name_in(hosts[0]) if len(hosts) == 1 else None
        if name is not None and self._is_ours(name):
            return None
        return GateRefusal(
            403,
            "the Host of the request is not the address listened on. Fix: ask by that address, or "
            "listen on the name that is asked for",
        )

    def _is_ours(self, name: str) -> bool:
        if self._is_any:  # every address of the machine: its names are not known
            return True
        if self._is_loopback:  # any port will do: a tunnel has its own
            return names_loopback(name)
        return name == self._host

    def _key_refusal(self, given: list[str]) -> GateRefusal | None:
        if self._expected is None:
            return None
        if len(given) == 1 and hmac.compare_digest(
            given[0].encode(errors="surrogateescape"), self._expected
        ):
            return None
        return GateRefusal(401, "no key, or another one. Fix: send Authorization: Bearer KEY")


def _site_refusal(fields: dict[str, list[str]]) -> GateRefusal | None:
    sites = fields.get("sec-fetch-site", [])
    if "origin" not in fields and not any(site in _OTHER_SITES for site in sites):
        return None
    return GateRefusal(403, "the request comes from a web page. Fix: ask from a program")


@functools.lru_cache(maxsize=64)
def _name_in(field: str) -> str | None:
    """The name or address in a Host field; None means that it holds none."""
    match = _HOST.fullmatch(field)
    return None if match is None else _plain(match["name"])


def _plain(host: str) -> str:
    """A host in lower case; an address in its shortest form, without brackets."""
    bare = host.removeprefix("[").removesuffix("]").lower()
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare


@functools.lru_cache(maxsize=64)
def names_loopback(host: str) -> bool:
    """Whether a host is written as loopback; no name is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""
