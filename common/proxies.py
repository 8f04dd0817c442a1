"""HTTP proxies in the environment: our own processes do not ask each other through them.

A proxy is for the way out, such as to a model hub. Libraries that read HTTP_PROXY, HTTPS_PROXY or
ALL_PROXY (requests, gRPC) would also ask it for a server on this machine.
"""

from collections.abc import Iterable, Mapping

_OWN = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_NAMES = ("no_proxy", "NO_PROXY")  # some libraries read one, some the other


def without_proxy_for(environment: Mapping[str, str], hosts: Iterable[str] = ()) -> dict[str, str]:
    """The variables that keep requests to this machine and to `hosts` off any proxy.

    Args:
        environment: the variables so far; what they say is kept.
        hosts: names or addresses, IPv6 without brackets.

    Returns:
        NO_PROXY in both spellings, to be added to the environment.
    """
    known = (word.strip() for name in _NAMES for word in environment.get(name, "").split(","))
    words = dict.fromkeys(word for word in (*known, *_OWN, *hosts) if word)
    text = "*" if "*" in words else ",".join(words)
    return dict.fromkeys(_NAMES, text)
