import pytest

from common.addresses import is_ipv6, join_address, split_address


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("127.0.0.1", "127.0.0.1:80"),
        ("node-1", "node-1:80"),
        ("::1", "[::1]:80"),
        ("[::1]", "[::1]:80"),
        ("fe80::1%eth0", "[fe80::1%eth0]:80"),
    ],
)
def test_ipv6_addresses_stand_in_brackets(host: str, text: str) -> None:
    assert join_address(host, 80) == text
    assert split_address(text) == (host.strip("[]"), 80)
    assert split_address(f"tcp://{text}") == (host.strip("[]"), 80)


@pytest.mark.parametrize(
    ("text", "host"),
    [("auto", "auto"), ("::1", "::1"), ("[::1]", "::1"), ("host:", "host:"), ("h:x", "h:x"),
     ("h:65536", "h:65536"), ("", "")],
)  # fmt: skip
def test_what_names_no_port_has_none(text: str, host: str) -> None:
    assert split_address(text) == (host, None)


def test_names_and_ipv4_are_no_ipv6() -> None:
    assert is_ipv6("::1") and is_ipv6("[fd00::7]")
    assert not is_ipv6("127.0.0.1") and not is_ipv6("localhost")
