"""The journal's format: each call of the ledger that is recorded, with its arguments in order.

A record in the journal holds a name of this table and the arguments as they stand here; recovery
makes the same calls in the same order. So a name, an argument, an order or a kind that changes here
changes what old journals mean: raise `broker.storage.identity.FORMAT` by one with it. (A method of
the ledger may be renamed freely: the name in the journal is the key of the table.)

To record a further call, add its method to `Ledger` and a line here; `LedgerRecorder.do` refuses a
call that is not in the table.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from broker.ledger.entry import Owner, Receipt
from broker.ledger.ledger import Ledger
from broker.protocol import Blame, Role


class BadArguments(ValueError):
    """Arguments of a recorded call that are not those of the table."""


class Kind(NamedTuple):
    """Values that one argument may have."""

    name: str
    type: Any  # its type in the declaration of the ledger's method
    holds: Callable[[Any], bool]  # whether a value is one
    read: Callable[[Any], Any] = lambda value: value  # makes one of what MessagePack gives back


class Arguments(dict[str, Kind]):
    """Kinds of a record's arguments, by name and in their order."""

    def check(self, arguments: tuple[Any, ...]) -> None:
        """Compare arguments with the table, before a call is made.

        Raises:
            BadArguments: too many, too few, or one of another kind.
        """
        self._check_count(arguments)
        for value, (name, kind) in zip(arguments, self.items(), strict=True):
            if not kind.holds(value):
                raise _wrong(name, kind, value)

    def read(self, recorded: tuple[Any, ...]) -> dict[str, Any]:
        """Arguments by name, as the ledger takes them, from a record's. Raises BadArguments."""
        self._check_count(recorded)
        return {
            name: _read(name, kind, value)
            for value, (name, kind) in zip(recorded, self.items(), strict=True)
        }

    def _check_count(self, arguments: tuple[Any, ...]) -> None:
        if len(arguments) != len(self):
            expected = ", ".join(self) or "none"
            raise BadArguments(f"{len(arguments)} arguments, expected {expected}")


class Command(NamedTuple):
    """One call of the ledger."""

    call: Callable[..., Any]  # the method of Ledger
    arguments: Arguments


def _read(name: str, kind: Kind, recorded: Any) -> Any:
    try:
        value = kind.read(recorded)
    except (TypeError, ValueError):
        raise _wrong(name, kind, recorded) from None
    if not kind.holds(value):
        raise _wrong(name, kind, recorded)
    return value


def _wrong(name: str, kind: Kind, value: Any) -> BadArguments:
    return BadArguments(f"{name} = {repr(value)[:80]} is not of kind {kind.name}")


# ---- kinds of arguments --------------------------------------------------------------------------
def _is_int(value: Any) -> bool:
    return type(value) is int  # no bool


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_owner(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and _is_int(value[1])
    )


def _is_receipt(value: Any) -> bool:
    return (
        isinstance(value, Receipt)
        and isinstance(value.lengths, tuple)
        and set(map(type, (*value[:3], *value.lengths))) == {int}
    )


def _are_reasons(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(group_id, str) and isinstance(reason, str) for group_id, reason in value.items()
    )


def _is_seconds(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


OWNER = Kind("owner", Owner, _is_owner)  # [member id, incarnation]
TEXT = Kind("text", str, _is_text)
BYTES = Kind("bytes", bytes, lambda value: isinstance(value, bytes))
INT = Kind("int", int, _is_int)
LIMIT = Kind("int or none", int | None, lambda value: value is None or _is_int(value))
SECONDS = Kind("seconds", float, _is_seconds)
ROLE = Kind("role", Role, lambda value: isinstance(value, Role), Role)  # its value
BLAME = Kind("blame", Blame, lambda value: isinstance(value, Blame), Blame)  # its value
RECEIPT = Kind("receipt", Receipt, _is_receipt, lambda fields: Receipt(*fields))  # its fields
FACTS = Kind("facts", dict, lambda value: isinstance(value, dict))  # by name
REASONS = Kind("reasons", Mapping[str, str], _are_reasons)  # group id -> reason


# ---- the table -----------------------------------------------------------------------------------
def _command(call: Callable[..., Any], **arguments: Kind) -> Command:
    return Command(call, Arguments(arguments))


COMMANDS: Mapping[str, Command] = {
    "amend": _command(
        Ledger.amend, lease_s=SECONDS, max_attempts=INT, max_steps=LIMIT, max_leases=INT
    ),
    "join": _command(Ledger.join, owner=OWNER, role=ROLE),
    "leave": _command(Ledger.leave, owner=OWNER, reason=TEXT, why=TEXT, now=SECONDS),
    "serve": _command(Ledger.serve, owner=OWNER, history=INT, version=INT),
    "lease": _command(
        Ledger.lease,
        owner=OWNER,
        request_id=BYTES,
        max_groups=INT,
        history=INT,
        serving_version=INT,
        now=SECONDS,
    ),
    "submit": _command(Ledger.submit, owner=OWNER, group_id=TEXT, attempt=INT, receipt=RECEIPT),
    "give_back": _command(
        Ledger.give_back,
        owner=OWNER,
        group_id=TEXT,
        attempt=INT,
        blame=BLAME,
        why=TEXT,
        now=SECONDS,
    ),
    "lapse": _command(Ledger.lapse, now=SECONDS),
    "lose": _command(Ledger.lose, group_id=TEXT, attempt=INT),
    "take": _command(Ledger.take, owner=OWNER, step=INT, rank=INT, world_size=INT),
    "acknowledge": _command(
        Ledger.acknowledge, owner=OWNER, step=INT, taking=INT, refused=REASONS, rank=INT
    ),
    "commit": _command(Ledger.commit, step=INT, oldest=INT),
    "rewind": _command(Ledger.rewind, owner=OWNER, step=INT),
    "finish": _command(Ledger.finish),
    "doubt": _command(Ledger.doubt),
}
_NAMES = {command.call.__name__: name for name, command in COMMANDS.items()}


def name_of(call: Callable[..., Any]) -> str:
    """The journal's name of a ledger's method.

    Raises:
        LookupError: no such call may be recorded.
    """
    name = _NAMES.get(getattr(call, "__name__", ""))
    if name is None:
        raise LookupError(
            f"{call!r} is no call that the journal knows. Fix: add it to broker.ledger.commands"
        )
    return name
