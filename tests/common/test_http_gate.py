"""Who may use an HTTP port: the rule itself, on heads of requests."""

import pytest

from common.http_gate import Gate

KEY = "a-key-of-the-tests"
SHOWN = ("Authorization", f"Bearer {KEY}")


def status(gate: Gate, *head: tuple[str, str]) -> int | None:
    """HTTP status of the refusal; None: it may pass."""
    refusal = gate.refusal(head)
    return None if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("listens_on", "passing", "turned_away"),
    [
        (
            "127.0.0.1",
            ("127.0.0.1", "127.0.0.1:4000", "localhost:80", "LOCALHOST", "[::1]:4000", "127.0.0.2"),
            ("elsewhere.example", "localhost.example", "10.0.0.1", "127.0.0.1.example", "[::2]"),
        ),
        ("::1", ("[::1]:4000", "[0:0::1]", "localhost", "127.0.0.1"), ("[::]", "a-node")),
        ("localhost", ("localhost:1", "127.0.0.1"), ("localhost.",)),
        ("10.0.0.5", ("10.0.0.5:30000",), ("localhost", "127.0.0.1", "a-node", "10.0.0.50")),
        ("A-Node", ("a-node:1", "A-NODE"), ("a-node.example", "10.0.0.5")),
        ("fd00::5", ("[fd00::5]:1", "[FD00:0::5]"), ("[fd00::6]",)),
        ("0.0.0.0", ("a-node:1", "10.0.0.5", "[fd00::5]"), ()),
        ("::", ("a-node", "10.0.0.5:30000"), ()),
    ],
)
def test_the_host_is_the_one_listened_on(
    listens_on: str, passing: tuple[str, ...], turned_away: tuple[str, ...]
) -> None:
    gate = Gate(listens_on, None)
    assert [status(gate, ("Host", host)) for host in passing] == [None] * len(passing)
    assert [status(gate, ("Host", host)) for host in turned_away] == [403] * len(turned_away)


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    "hosts",
    [(), ("",), ("127.0.0.1", "127.0.0.1"), ("127.0.0.1/health",), ("me@127.0.0.1",),
     ("127.0.0.1:",), ("127.0.0.1:http",), ("127.0.0.1:999999",), ("[::1",), ("127.0.0.1 ",)],
)  # fmt: skip
def test_a_host_that_is_none_is_turned_away(listens_on: str, hosts: tuple[str, ...]) -> None:
    head = [*(("Host", host) for host in hosts), SHOWN]
    assert status(Gate(listens_on, KEY), *head) == 403


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("Origin", "http://127.0.0.1:4000", 403),  # no program of ours sends one
        ("origin", "null", 403),
        ("Sec-Fetch-Site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("Sec-Fetch-Site", "none", None),  # typed into the address bar
        ("User-Agent", "a browser", None),
    ],
)
def test_web_pages_are_turned_away_even_with_the_key(
    field: str, value: str, expected: int | None
) -> None:
    head = (("Host", "127.0.0.1"), SHOWN, (field, value))
    assert status(Gate("127.0.0.1", KEY), *head) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), 401),
        ((f"Bearer {KEY}",), None),
        ((f"Bearer {KEY} ",), 401),
        ((f"Bearer {KEY[:-1]}",), 401),
        ((KEY,), 401),
        (("Bearer \u00e9\u20ac",), 401),
        (("Bearer \udce9",), 401),  # a byte that is no UTF-8, as servers hand it on
        ((f"Bearer {KEY}", f"Bearer {KEY}"), 401),
        ((f"Basic {KEY}",), 401),
    ],
)
def test_the_key_is_asked_for(given: tuple[str, ...], expected: int | None) -> None:
    head = [("Host", "127.0.0.1"), *(("authorization", value) for value in given)]
    assert status(Gate("127.0.0.1", KEY), *head) == expected
    assert status(Gate("127.0.0.1", None), *head) is None


def test_the_reasons_name_the_fix_and_never_the_key() -> None:
    gate = Gate("127.0.0.1", KEY)
    heads = ((), (("Host", "localhost"), ("Origin", "null")), (("Host", "localhost"),))
    reasons = [refusal.reason for head in heads if (refusal := gate.refusal(head))]
    assert len(reasons) == 3
    assert all(". Fix: " in reason and KEY not in reason for reason in reasons)
