"""HOST:PORT as text, with IPv6 addresses in brackets as in a URL (RFC 3986): [::1]:8000."""

import ipaddress

_SCHEME_END = "://"


def join_address(host: str, port: int | str) -> str:
    """HOST:PORT. `host` is a name or an address, IPv6 with or without brackets."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def split_address(address: str) -> tuple[str, int | None]:
    """Host without brackets, and port; the scheme (tcp://) may be there.

    Returns:
        The port is None where the text names none, or none that is a number up to 65535.
    """
    rest = address.partition(_SCHEME_END)[2] or address
    host, separator, port = rest.rpartition(":")
    is_port = separator and port.isascii() and port.isdecimal() and int(port) <= 65535
    if not is_port or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        return rest.strip("[]"), None
    return host.strip("[]"), int(port)


def is_ipv6(host: str) -> bool:
    """Whether it is an IPv6 address. False for names."""
    try:
        return ipaddress.ip_address(host.strip("[]")).version == 6
    except ValueError:
        return False
