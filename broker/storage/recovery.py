"""From the files of a run back to the ledger: the same calls once more, in the same order."""

import logging
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from broker.ledger.commands import COMMANDS, FACTS, INT, TEXT, Arguments, BadArguments
from broker.ledger.entry import Entry, Owner, Rules, Shard
from broker.ledger.ledger import Ledger
from broker.ledger.refusal import Refusal
from broker.storage.disk import Disk
from broker.storage.durable import STORED
from broker.storage.frames import CorruptJournal, Record, read_records
from broker.storage.identity import AMENDABLE, check_same_run, facts_of, notes_of
from broker.storage.segments import Place
from broker.storage.store import Key
from common.journal_file import JOURNAL
from common.source import SampleSource

logger = logging.getLogger(__name__)
BEGIN = "begin"  # the first record: what run this is
MAX_JOINED = 4096  # lives that are remembered
_HEAD_BYTES = 64 * 2**10  # hold the first record
OPENED = "opened"  # a broker has begun: (boot of its machine, fsync policy)
NOTES = {  # records beside the calls of the ledger, which `broker.ledger.commands` has
    BEGIN: Arguments(facts=FACTS),
    OPENED: Arguments(boot=TEXT, fsync=TEXT),
    STORED: Arguments(
        group_id=TEXT, attempt=INT, segment=TEXT, offset=INT, length=INT, checksum=INT
    ),
}


class Recovered(NamedTuple):
    """All that a broker goes on from."""

    ledger: Ledger
    places: dict[Key, Place]  # place of each group in the segments
    next_record: int
    next_segment: int
    seconds: float  # the broker's clock at the last record
    size: int  # bytes of whole records in the journal
    opened: tuple[str, str] | None  # the last broker: boot of its machine, fsync policy
    joined: tuple[Owner, ...] = ()  # the latest lives that came, in their order


def check_journal(folder: Path, source: SampleSource, rules: Rules, dataset: str) -> bool:
    """Look, without touching anything, whether the journal in `folder` is of this run.

    Returns:
        False if there is no journal to go on from.

    Raises:
        ConfigError, CorruptJournal: as `recover`, of its first record.
    """
    try:
        with (folder / JOURNAL).open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        return False
    first = next(read_records(head), None)
    if first is None:
        return False
    _checked(first, source, rules, dataset)
    return True


def recover(disk: Disk, source: SampleSource, rules: Rules, dataset: str = "") -> Recovered | None:
    """The state behind the last whole record; None means that there is no journal yet.

    Args:
        dataset: path of its file, for messages.

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
    rules_then = _checked(first, source, rules, dataset)
    ledger = Ledger(source, rules_then)
    places: dict[Key, Place] = {}
    opened = None
    joined: deque[Owner] = deque(maxlen=MAX_JOINED)
    last = first
    for last in records:
        if last.command == OPENED:
            boot, fsync = arguments_of(last).values()
            opened = (boot, fsync)
        elif last.command == STORED:
            group_id, attempt, *place = arguments_of(last).values()
            places[group_id, attempt] = Place(*place)
        else:
            replay(ledger, last)
            if last.command == "join":
                joined.append(arguments_of(last)["owner"])
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
        tuple(joined),
    )


def replay(ledger: Ledger, record: Record) -> None:
    """Make one recorded call.

    Raises:
        CorruptJournal: no such call, other arguments, or something else came of it.
    """
    arguments = arguments_of(record).values()
    try:
        outcome = outcome_of(COMMANDS[record.command].call(ledger, *arguments))
    except Refusal as refusal:  # it was refused then, too, and changed something all the same
        outcome = outcome_of(refusal)
    if outcome != record.outcome:
        raise CorruptJournal(
            f"record {record.number}, {record.command}: {record.outcome!r} came of it then, "
            f"{outcome!r} now. Was the journal written by another version?"
        )


def arguments_of(record: Record) -> dict[str, Any]:
    """The arguments of any record, by name and as the ledger takes them.

    Raises:
        CorruptJournal: no such record, or other arguments.
    """
    command = COMMANDS.get(record.command)
    known = command.arguments if command else NOTES.get(record.command)
    if known is None:
        raise CorruptJournal(f"record {record.number} is of unknown kind {record.command[:40]!r}")
    try:
        return known.read(record.arguments)
    except BadArguments as error:
        raise CorruptJournal(f"record {record.number}, {record.command}: {error}") from None


def outcome_of(value: Any) -> Any:
    """Outcome of a call as the journal holds it: plain, and comparable once it is read back."""
    if isinstance(value, Refusal):
        return value.code
    if isinstance(value, Shard):
        return outcome_of(list(value.entries))
    if isinstance(value, list):
        return tuple(map(outcome_of, value))
    return (value.group_id, value.attempt) if isinstance(value, Entry) else value


def amendment(ledger: Ledger, rules: Rules) -> tuple[Any, ...] | None:
    """Arguments of `Ledger.amend` where something is new; None means that nothing is.

    A run that is finished, and that all its members have left, is opened once more: with as many
    steps as the configuration now says.
    """
    now, then = asdict(rules), asdict(ledger.rules)
    is_reopened = ledger.steps.is_finished and not ledger.members
    if not is_reopened and all(now[name] == then[name] for name in AMENDABLE):
        return None
    return tuple(now[name] for name in AMENDABLE)


def _checked(first: Record, source: SampleSource, rules: Rules, dataset: str) -> Rules:
    """The rules as they were at first, if this journal is of this run."""
    if first.command != BEGIN:
        raise CorruptJournal("the journal does not begin with what run it is of")
    then: dict[str, Any] = arguments_of(first)["facts"]
    check_same_run(then, {**facts_of(source, rules), **notes_of(source, dataset)})
    return Rules(**{name: then[name] for name in asdict(rules)})
