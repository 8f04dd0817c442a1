"""Open the broker of a run: a new one, or the one that the run folder's journal tells of."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import NamedTuple

from broker.ledger.entry import Rules
from broker.ledger.ledger import Ledger
from broker.service.membership import Membership
from broker.service.service import BrokerService
from broker.storage.disk import Disk, FolderDisk
from broker.storage.durable import DurableStore, Fsync
from broker.storage.frames import CorruptJournal
from broker.storage.identity import facts_of, notes_of
from broker.storage.recovery import BEGIN, OPENED, Recovered, amendment, recover
from broker.storage.store import Damaged, MemoryStore
from common.config import RunConfig
from common.data_health import data_fault
from common.errors import ConfigError
from common.journal_file import JOURNAL
from common.kept_reading import keep
from common.source import SampleSource
from common.types import Sample
from common.versions import versions

logger = logging.getLogger(__name__)
_SERIALS_A_RECORD = 1000  # so that the serials of announcements go on after a restart


class Opened(NamedTuple):
    """A broker that is ready to serve."""

    service: BrokerService
    started_at: float  # where the broker's clock stands, in seconds
    run_id: str
    sync_at_intervals: Callable[[], Coroutine[None, None, None]]  # runs until cancelled


def open_broker(
    config: RunConfig, source: SampleSource, heldout: Mapping[str, Sample] | None = None
) -> Opened:
    """Open the broker of a configuration, in memory if there is no run folder.

    Args:
        heldout: samples that may be measured on, by name; None means that there are none.

    Raises:
        ConfigError: the run folder's journal is of another run, or of one whose data was too bad.
        CorruptJournal: it is damaged before its end.
    """
    rules = Rules.of(config)
    folder = config.run.folder
    run_id = folder.name if folder else config.run.name
    max_frame_bytes = config.broker.max_frame_mib * 2**20
    if folder is None:
        logger.info("no run folder: this broker keeps everything in memory")
        service = BrokerService(
            Ledger(source, rules),
            Membership(config.broker.member_timeout_s),
            MemoryStore(config.broker.max_held_mib * 2**20),
            run_id=run_id,
            num_samples=len(source.samples),
            max_frame_bytes=max_frame_bytes,
            rows=source.rows,
            versions=versions(),
            heldout=heldout,
        )
        return Opened(service, 0.0, run_id, _forever)
    disk = FolderDisk(folder / "journal")
    disk.lock()
    if source.reading is not None:
        keep(folder, source.reading)
    try:
        service, store, started_at = open_durable(
            disk,
            source,
            rules,
            fsync=config.broker.fsync,
            interval_s=config.broker.fsync_interval_s,
            member_timeout_s=config.broker.member_timeout_s,
            run_id=run_id,
            dataset=dataset_of(config),
            max_frame_bytes=max_frame_bytes,
            versions=versions(),
            heldout=heldout,
        )
    except CorruptJournal as damage:
        raise CorruptJournal(
            f"{disk.folder}: {damage}. Fix: python -m broker.journal {folder} repair keeps what is "
            "before it; what came after is generated and trained again"
        ) from damage
    is_interval = config.broker.fsync == "interval"
    syncing = store.sync_at_intervals if is_interval else _forever
    return Opened(service, started_at, run_id, syncing)


def dataset_of(config: RunConfig) -> str:
    """The path of the data as the journal tells it."""
    return str(config.data.train.absolute()) if config.data.train else ""


def open_durable(
    disk: Disk,
    source: SampleSource,
    rules: Rules,
    *,
    fsync: Fsync,
    interval_s: float = 1.0,
    member_timeout_s: float = 20.0,
    run_id: str = "run",
    dataset: str = "",
    max_frame_bytes: int = 2**20,
    segment_bytes: int = 64 * 2**20,
    versions: Mapping[str, str] | None = None,
    heldout: Mapping[str, Sample] | None = None,
) -> tuple[BrokerService, DurableStore, float]:
    """The service on a disk, its store, and where its clock stands. Raises as `open_broker`."""
    found = recover(disk, source, rules, dataset)
    if found is not None and (fault := data_fault(source.rows, found.ledger.quarantine)):
        raise ConfigError(fault)  # before anything is written
    if found is None:
        disk.truncate(JOURNAL, 0)
        ledger, started_at = Ledger(source, rules), 0.0
        store = DurableStore(disk, fsync=fsync, interval_s=interval_s, segment_bytes=segment_bytes)
        first_serial = 0
        first = {**facts_of(source, rules), **notes_of(source, dataset)}
        store.record(0.0, BEGIN, (first,))
    else:
        disk.truncate(JOURNAL, found.size)
        ledger, started_at = found.ledger, found.seconds
        store = DurableStore(
            disk,
            fsync=fsync,
            interval_s=interval_s,
            next_record=found.next_record,
            places=found.places,
            next_segment=found.next_segment,
            segment_bytes=segment_bytes,
        )
        logger.info(
            "recovered from %d records: step %d, %d groups wait for the learner",
            found.next_record, ledger.version, len(ledger.needed()),
        )  # fmt: skip
        first_serial = found.next_record * _SERIALS_A_RECORD
    membership = Membership(member_timeout_s)
    for owner in () if found is None else found.joined:
        membership.note_life(owner)
    for owner, role in ledger.members.items():
        membership.restore(owner, role, started_at)
    service = BrokerService(
        ledger,
        membership,
        store,
        run_id=run_id,
        num_samples=len(source.samples),
        max_frame_bytes=max_frame_bytes,
        rows=source.rows,
        first_serial=first_serial,
        versions=versions,
        heldout=heldout,
    )
    if found is not None:
        _catch_up(service, found, disk.boot, rules)
    store.record(started_at, OPENED, (disk.boot, fsync))
    store.must_sync()
    store.flush()
    return service, store, started_at


def _catch_up(service: BrokerService, found: Recovered, boot: str, rules: Rules) -> None:
    """Record what happened while no broker ran: a power cut, another configuration, damage."""
    now = found.seconds
    boot_then, fsync_then = found.opened or (boot, "")  # None: nothing was acknowledged yet
    if boot_then != boot and fsync_then != "always":
        logger.warning("the machine was restarted: a new history begins")
        service.change(now, service.ledger.doubt)
    amended = amendment(service.ledger, rules)
    if amended is not None:
        service.change(now, service.ledger.amend, *amended)
    for entry in service.ledger.needed():
        try:
            service.store.get(entry)
        except Damaged as error:
            logger.error("%s is generated again: damaged: %s", entry.group_id, error)
            service.change(now, service.ledger.lose, entry.group_id, entry.attempt)


async def _forever() -> None:
    await asyncio.Event().wait()
