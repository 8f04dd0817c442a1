"""What Ray takes from the environment, named as such before Ray is started."""

import os
import socket
from collections.abc import Mapping

from common.errors import ConfigError

ADDRESS = "RAY_ADDRESS"  # Ray's own variable for the cluster to join
_ANSWER_S = 10.0


def named_by(address: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Where the address of the Ray to join was given: a variable or a key, with its value.

    Args:
        address: as the configuration has it by itself. None means the environment's.
    """
    if address is not None:
        return f"cluster.address (--address) = {address!r}"
    return f"environment: {ADDRESS} = {environment.get(ADDRESS, '')!r}"


def check_address(address: str, where: str) -> None:
    """Whether a Ray answers at the address that is to be joined.

    Args:
        where: as `named_by`.

    Raises:
        ConfigError: it is no address of a Ray cluster, or nothing answers there.
    """
    check_form(address, where)
    if address == "auto":
        return  # Ray's to find
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
            pass
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{where}: no Ray answers there ({error}). {_fix(where)}") from None


def check_form(address: str, where: str) -> None:
    """The part of `check_address` that needs no network. Raises ConfigError."""
    host, separator, port = address.rpartition(":")
    is_pair = bool(separator and host) and port.isdecimal() and "//" not in host
    if address != "auto" and not is_pair:
        raise ConfigError(f"{where}: no HOST:PORT. {_fix(where)}")


def _fix(where: str) -> str:
    if where.startswith("environment"):
        return f"Fix: unset {ADDRESS} for a Ray of this run alone, or set it to HOST:PORT"
    return "Fix: give HOST:PORT of a Ray that runs, or none for a Ray of this run alone"
