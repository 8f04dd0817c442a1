"""A request is a class, a handler and a method of the client: one that lacks a part is found."""

import ast
import hashlib
import inspect
import re
import typing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from broker import protocol as p
from broker.client import BrokerClient
from broker.service.handlers import Call, Held, handlers_of, handles
from broker.service.images import DatasetImages
from common.errors import ProtocolError
from common.types import Record
from common.wire import PROTOCOL_VERSION, encode
from tests.broker.support import make_rules, make_service, make_source

HELLO = p.Hello(member_id="rollout-0", incarnation=1, role=p.Role.ROLLOUT)


# What the messages were made of at that version of the wire. Never change it without the version:
# two sides that read a message differently would not notice.
PINNED = (8, "eeedd4d4c5b80cf8")


def fields_of(path: Path) -> list[str]:
    """The fields of a file's classes with their types, and the values of its enumerations."""
    classes = [n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.ClassDef)]
    fields = []
    for node in classes:
        for part in node.body:
            if isinstance(part, ast.AnnAssign):
                fields.append(
                    f"{node.name}.{ast.unparse(part.target)}: {ast.unparse(part.annotation)}"
                )
            elif isinstance(part, ast.Assign):
                fields.append(f"{node.name}.{ast.unparse(part)}")
    return fields


def test_messages_are_pinned_with_the_version_of_the_wire() -> None:
    files = [*Path(p.__file__).parent.glob("*.py"), Path(inspect.getfile(Record))]
    fields = sorted(field for path in files for field in fields_of(path))
    assert len(fields) > 100
    digest = hashlib.sha256("\n".join(fields).encode()).hexdigest()[:16]
    assert (PROTOCOL_VERSION, digest) == PINNED, (
        "messages have changed. Fix: raise PROTOCOL_VERSION in common/wire.py, and pin both anew"
    )


def handlers() -> dict[type[p.Request[Record]], Any]:
    """Handlers of the service, and of the images beside it; never two for one request."""
    service = make_service(make_source(2), make_rules())._handlers
    images = handlers_of(DatasetImages.__new__(DatasetImages))
    assert not service.keys() & images.keys()
    return {**service, **images}


def sent_by_the_client() -> set[str]:
    """Names of what the client's methods make."""
    return set(re.findall(r"\bp\.(\w+)\(", inspect.getsource(BrokerClient)))


def test_every_request_has_one_handler() -> None:
    assert {kind.__name__ for kind in handlers()} == set(p.REQUESTS)


@pytest.mark.parametrize("name", sorted(p.REQUESTS))
def test_a_method_of_the_client_sends_every_request(name: str) -> None:
    assert name in sent_by_the_client()


@pytest.mark.parametrize("name", sorted(p.REQUESTS))
def test_a_handler_takes_its_request_and_returns_its_reply(name: str) -> None:
    kind = p.REQUESTS[name]
    _, message, call, reply = (None, *typing.get_type_hints(handlers()[kind]).values())
    assert (message, call) == (kind, Call)
    is_held = issubclass(kind, p.HeldRequest)
    assert reply == (Held[kind.reply_type()] if is_held else kind.reply_type())


def test_every_reply_is_known_to_clients() -> None:
    assert {kind.reply_type() for kind in p.REQUESTS.values()} <= set(p.REPLIES.values())


def test_a_request_says_who_may_send_it() -> None:
    class Forgotten(p.MemberRequest[p.Done]):
        pass

    with pytest.raises(TypeError, match=r"^Forgotten does not say who may send it. Fix: class"):
        handles(Forgotten)


def test_two_handlers_of_one_request_are_refused() -> None:
    class Twice:
        @handles(p.GetStatus)
        def first(self, request: p.GetStatus, call: Call) -> p.Status:
            raise NotImplementedError

        @handles(p.GetStatus)
        def second(self, request: p.GetStatus, call: Call) -> p.Status:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"^GetStatus has two handlers, one is .*Twice.second$"):
        handlers_of(Twice())


@pytest.mark.parametrize("unsigned", ["", "member_id", "incarnation"])
def test_a_request_of_no_member_is_malformed(unsigned: str) -> None:
    assert p.read_request(encode(HELLO)) == HELLO
    assert HELLO.owner == ("rollout-0", 1)
    fields = {**HELLO.__dict__}
    fields.pop(unsigned, None)
    frame = encode(p.Hello(role=p.Role.ROLLOUT)) if not unsigned else _frame("Hello", fields)
    with pytest.raises(ProtocolError, match=r"^Hello"):
        p.read_request(frame)


def _frame(name: str, fields: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb({"type": name, **fields})
    return packed
