"""From the files of a run back to the ledger: the same calls once more, in the same order."""

import logging
from dataclasses import asdict
from typing import Any, NamedTuple

from broker.disk import Disk
from broker.durable import JOURNAL, STORED
from broker.entry import Entry, Receipt, Rules, Shard
from broker.frames import CorruptJournal, Record, read_records
from broker.ledger import Ledger
from broker.protocol import Blame, Role
from broker.refusal import Refusal
from broker.segments import Place
from broker.source import SampleSource
from broker.store import Key
from common.errors import ConfigError

logger = logging.getLogger(__name__)
BEGIN = "begin"  # the first record: what run this is
OPENED = "opened"  # a broker has begun: (boot of its machine, fsync policy)
FORMAT = 2
_AMENDABLE = ("lease_s", "max_attempts", "max_steps", "max_leases")
_COMMANDS = frozenset(
    {"join", "leave", "serve", "lease", "submit", "give_back", "lapse", "lose", "take"}
    | {"acknowledge", "commit", "rewind", "amend", "doubt", "finish"}
)


class Recovered(NamedTuple):
    ledger: Ledger
    places: dict[Key, Place]  # where groups lie
    next_record: int
    next_segment: int
    seconds: float  # the broker's clock at the last record
    size: int  # bytes of the journal that are whole
    opened: tuple[str, str] | None  # the last broker: boot of its machine, fsync policy


def facts_of(source: SampleSource, rules: Rules) -> dict[str, Any]:
    """What makes a run this run, for the journal's first record."""
    return {"format": FORMAT, **asdict(rules), **source.facts()}


def recover(disk: Disk, source: SampleSource, rules: Rules) -> Recovered | None:
    """The state behind the last whole record; None: there is no journal yet.

    Raises:
        ConfigError: the journal is of another run.
        CorruptJournal: damage before its end.
    """
    if disk.size(JOURNAL) == 0:
        return None
    content = disk.read(JOURNAL)
    records = read_records(content)
    first = next(records, None)
    if first is None:
        return None  # not even the first record is whole: nothing was acknowledged
    rules_then = _checked(first, source, rules)
    ledger = Ledger(source, rules_then)
    places: dict[Key, Place] = {}
    opened = None
    last = first
    for last in records:
        if last.command == OPENED:
            opened = last.arguments
        elif last.command == STORED:
            group_id, attempt, *place = last.arguments
            places[group_id, attempt] = Place(*place)
        else:
            replay(ledger, last)
    ledger.check()
    if last.end < len(content):
        logger.warning("%s: a torn end of %d bytes", JOURNAL, len(content) - last.end)
    names = set(disk.names())
    used = names | {place.segment for place in places.values()}
    numbers = [int(name[8:14]) for name in used if name.startswith("segment-")]
    return Recovered(
        ledger,
        {key: place for key, place in places.items() if place.segment in names},
        last.number + 1,
        max(numbers, default=0) + 1,
        last.seconds,
        last.end,
        opened,
    )


def replay(ledger: Ledger, record: Record) -> None:
    """Make one recorded call.

    Raises:
        CorruptJournal: no such call, or something else came of it.
    """
    if record.command not in _COMMANDS:
        raise CorruptJournal(f"record {record.number} is of unknown kind {record.command[:40]!r}")
    arguments = list(record.arguments)
    if record.command == "submit":
        arguments[3] = Receipt(*arguments[3])
    if record.command == "give_back":
        arguments[3] = Blame(arguments[3])
    if record.command == "join":
        arguments[1] = Role(arguments[1])
    try:
        outcome = outcome_of(getattr(ledger, record.command)(*arguments))
    except Refusal as refusal:  # it was refused then, too, and changed something all the same
        outcome = outcome_of(refusal)
    if outcome != record.outcome:
        raise CorruptJournal(
            f"record {record.number}, {record.command}: {record.outcome!r} came of it then, "
            f"{outcome!r} now. Was the journal written by another version?"
        )


def outcome_of(value: Any) -> Any:
    """What came of a call, as the journal holds it: plain, and comparable once it is read back."""
    if isinstance(value, Refusal):
        return value.code
    if isinstance(value, Shard):
        return outcome_of(list(value.entries))
    if isinstance(value, list):
        return tuple(map(outcome_of, value))
    return (value.group_id, value.attempt) if isinstance(value, Entry) else value


def amendment(ledger: Ledger, rules: Rules) -> tuple[Any, ...] | None:
    """Arguments of `Ledger.amend` where something is new; None: nothing is.

    A run that is finished, and that all its members have left, is opened once more: with as many
    steps as the configuration now says.
    """
    now, then = asdict(rules), asdict(ledger.rules)
    is_reopened = ledger.is_finished and not ledger.members
    if not is_reopened and all(now[name] == then[name] for name in _AMENDABLE):
        return None
    return tuple(now[name] for name in _AMENDABLE)


def _checked(first: Record, source: SampleSource, rules: Rules) -> Rules:
    """The rules as they were at first, if this journal is of this run."""
    if first.command != BEGIN or not isinstance(first.arguments[0], dict):
        raise CorruptJournal("the journal does not begin with what run it is of")
    then: dict[str, Any] = dict(first.arguments[0])
    now = facts_of(source, rules)
    for name, value in now.items():
        if name not in _AMENDABLE and then.get(name) != value:
            raise ConfigError(
                f"the run folder's journal is of a run with {name} = {then.get(name)!r}, "
                f"the configuration has {value!r}. Fix: set it back, or name a new run.folder"
            )
    return Rules(**{name: then[name] for name in asdict(rules)})
