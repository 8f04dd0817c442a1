"""The table of recorded calls: complete, as the ledger declares them, and pinned with FORMAT."""

import ast
import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from broker.ledger.commands import COMMANDS, BadArguments, name_of
from broker.ledger.entry import Receipt
from broker.ledger.ledger import Ledger
from broker.protocol import Blame, Role
from broker.storage.frames import CorruptJournal, Record
from broker.storage.identity import FORMAT
from broker.storage.recovery import NOTES, arguments_of
from tests.broker.support import make_rules, make_service, make_source

BROKER = Path(__file__).resolve().parents[3] / "broker"
ME = ("rollout-0", 1)

# What a journal holds. Never change it without FORMAT: old journals would be read as another thing.
PINNED_FORMAT = 3
PINNED = {
    "begin": "facts: facts",
    "opened": "boot: text, fsync: text",
    "stored": "group_id: text, attempt: int, segment: text, offset: int, length: int, "
    "checksum: int",
    "amend": "lease_s: seconds, max_attempts: int, max_steps: int or none, max_leases: int",
    "join": "owner: owner, role: role",
    "leave": "owner: owner, reason: text, why: text, now: seconds",
    "serve": "owner: owner, history: int, version: int",
    "lease": "owner: owner, request_id: bytes, max_groups: int, history: int, "
    "serving_version: int, now: seconds",
    "submit": "owner: owner, group_id: text, attempt: int, receipt: receipt",
    "give_back": "owner: owner, group_id: text, attempt: int, blame: blame, why: text, "
    "now: seconds",
    "lapse": "now: seconds",
    "lose": "group_id: text, attempt: int",
    "take": "owner: owner, step: int, rank: int, world_size: int",
    "acknowledge": "owner: owner, step: int, taking: int, refused: reasons, rank: int",
    "commit": "step: int, oldest: int",
    "rewind": "owner: owner, step: int",
    "finish": "",
    "doubt": "",
}
PINNED_VALUES = {  # fields and values that stand in records by position or by name
    "receipt": ("oldest_version", "newest_version", "num_prompt_tokens", "lengths"),
    "role": ("rollout", "learner", "observer"),
    "blame": ("sample", "suspect", "nobody"),
}


def test_the_format_is_pinned() -> None:
    tables = NOTES | {name: command.arguments for name, command in COMMANDS.items()}
    table = {
        name: ", ".join(f"{argument}: {kind.name}" for argument, kind in arguments.items())
        for name, arguments in tables.items()
    }
    values = {"receipt": Receipt._fields, "role": tuple(Role), "blame": tuple(Blame)}
    assert (FORMAT, table, values) == (PINNED_FORMAT, PINNED, PINNED_VALUES), (
        "the journal's format has changed. Fix: raise FORMAT in broker/storage/identity.py, make "
        "a new golden journal (python -m tests.broker.golden.make), and copy the table to here"
    )


def test_the_table_has_exactly_the_calls_that_the_broker_records() -> None:
    recorded = {
        call.args[index].attr
        for path in sorted(BROKER.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        for name, index in (("do", 0), ("change", 1))
        if call.func.attr == name and len(call.args) > index
        if isinstance(call.args[index], ast.Attribute)
    }
    assert recorded == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_names_and_kinds_are_those_that_the_ledger_declares(name: str) -> None:
    call, arguments = COMMANDS[name]
    hints = get_type_hints(call)
    hints.pop("return")
    assert {argument: kind.type for argument, kind in arguments.items()} == hints
    assert ["self", *arguments] == list(inspect.signature(call).parameters)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("serve", (ME, 0), "2 arguments, expected owner, history, version"),
        ("serve", (ME, 0, 1, 2), "4 arguments"),
        ("finish", (0,), "1 arguments, expected none"),
        ("serve", ("rollout-0", 0, 1), "owner = 'rollout-0' is not of kind owner"),
        ("serve", (ME, 0, True), "version = True is not of kind int"),
        ("serve", (ME, 0, 1.0), "version = 1.0 is not of kind int"),
        ("lapse", ("soon",), "now = 'soon' is not of kind seconds"),
        ("join", (ME, "rollout"), "role = 'rollout' is not of kind role"),
        ("submit", (ME, "0/0", 0, (0, 0, 8, (3,))), "is not of kind receipt"),
        ("submit", (ME, "0/0", 0, Receipt(0, 0, 8, ("3",))), "is not of kind receipt"),
        ("acknowledge", (ME, 1, 1, {"0/0": 3}, 0), "is not of kind reasons"),
        ("lease", (ME, "request", 1, 0, 0, 0.0), "request_id = 'request' is not of kind bytes"),
    ],
)
def test_arguments_of_another_shape_are_found_before_the_call(
    name: str, arguments: tuple[Any, ...], message: str
) -> None:
    service = make_service(make_source(4), make_rules())
    service.change(0.0, service.ledger.join, ME, Role.ROLLOUT)
    before = service.ledger.revision
    with pytest.raises(BadArguments, match=message):
        service.change(0.0, getattr(service.ledger, name), *arguments)
    assert service.ledger.revision == before


def test_a_call_that_is_not_in_the_table_is_found_before_it_is_made() -> None:
    service = make_service(make_source(4), make_rules())
    with pytest.raises(LookupError, match=r"check_versions.*Fix: add it to broker\.ledger"):
        service.change(0.0, service.ledger.check_versions, Receipt(9, 9, 9, (9,)))
    assert name_of(Ledger.lease) == name_of(service.ledger.lease) == "lease"


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("join", (ME, "king"), "record 7, join: role = 'king' is not of kind role"),
        ("submit", (ME, "0/0", 0, (0, 0)), r"record 7, submit: receipt = \(0, 0\) is not"),
        ("submit", (ME, "0/0", 0, 5), "receipt = 5 is not of kind receipt"),
        ("stored", ("0/0", 0), "record 7, stored: 2 arguments, expected group_id, attempt"),
        ("begin", (), "record 7, begin: 0 arguments"),
        ("explode", (), "record 7 is of unknown kind 'explode'"),
        ("__init__", (), "unknown kind"),
    ],
)
def test_a_record_with_other_arguments_is_refused_by_name(
    command: str, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(CorruptJournal, match=message):
        arguments_of(Record(7, 0.0, command, arguments, None, 0))
