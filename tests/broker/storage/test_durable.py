"""The journal and the segments on a real folder: round trips, torn ends, damage, pruning.

Holds broker/storage/segments.py, common/journal_file.py.
"""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from broker import protocol as p
from broker.service.opening import open_durable
from broker.service.service import BrokerService
from broker.storage.disk import FolderDisk
from broker.storage.durable import DurableStore, RecentGroups
from broker.storage.frames import CorruptJournal, encode_record, read_records
from broker.storage.store import StoreFailure, StoreLost
from common import group_batch
from common.data_health import DataRows
from common.errors import ConfigError
from common.journal_file import JOURNAL
from common.wire import encode
from tests.broker.fingerprint import fingerprint
from tests.broker.storage.support import NUM_SAMPLES, Bench, FullDisk, busy
from tests.broker.support import make_group, make_rules, make_source, make_update, me, submission


@pytest.mark.smoke
def test_a_broker_that_was_killed_knows_everything_it_said(tmp_path: Path) -> None:
    bench = busy(tmp_path)
    before, taken = fingerprint(bench.ledger), bench.take(2)
    bench.kill()
    assert fingerprint(bench.ledger) == before
    assert encode(bench.take(2)) == encode(taken)
    assert bench.started_at == pytest.approx(bench.now, abs=0.6)
    # nobody needs to say hello again, and everything goes on
    assert isinstance(bench.ask(p.Heartbeat(**me("r0"))), p.Done)
    assert bench.ask(p.AckBatch(**me("l0"), step=2, batch_id=2)).is_complete


def test_members_that_do_not_come_back_lapse_after_a_restart(tmp_path: Path) -> None:
    bench = busy(tmp_path, member_timeout_s=5.0)
    bench.kill()
    bench.now += 4
    bench.ask(p.Heartbeat(**me("l0")))
    bench.service.tick(bench.now + 2)
    assert [owner for owner in bench.ledger.members] == [("l0", 1)]


def test_a_lease_whose_reply_was_lost_with_the_broker_is_given_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hello("l0", "r0")
    first = bench.lease(2, request_id=b"the-same")
    bench.kill()
    assert bench.lease(2, request_id=b"the-same") == first


def test_the_end_of_a_run_survives_and_an_early_end_does_not(tmp_path: Path) -> None:
    bench = busy(tmp_path)
    bench.ask(p.Finish(**me("l0"), reason="interrupted"))
    bench.kill()
    assert not bench.ask(p.Heartbeat(**me("r0"))).finished
    bench.rules = make_rules(2, 1, max_steps=2)
    bench.kill()
    bench.ask(p.AckBatch(**me("l0"), step=2, batch_id=2))
    bench.ask(p.Finish(**me("l0"), reason="done"))
    bench.kill()
    assert bench.ask(p.Heartbeat(**me("r0"))).finished
    bench.hello("l0", incarnation=2)
    bench.ask(p.Resume(**me("l0", 2), step=2))  # somebody wants more of it
    assert not bench.ask(p.Heartbeat(**me("r0"))).finished
    bench.ask(p.Finish(**me("l0", 2), reason="done again"))
    for leaving in (me("l0", 2), me("r0")):
        bench.ask(p.Goodbye(**leaving))
    assert bench.service.is_over
    bench.kill()
    assert not bench.service.is_over  # all have left: a broker that is started again is to be open


def test_one_folder_has_one_broker(tmp_path: Path) -> None:
    first, second = FolderDisk(tmp_path), FolderDisk(tmp_path)
    first.lock()
    with pytest.raises(ConfigError, match=r"another broker works on.*Fix"):
        second.lock()
    first.close()
    second.lock()
    second.close()


def test_announcements_are_numbered_on_after_a_restart(tmp_path: Path) -> None:
    bench = busy(tmp_path)
    bench.ask(p.AnnounceWeights(**me("l0"), update=make_update(1, "r0")))
    watch = p.WatchWeights(**me("r0"), seen_serial=0, wait_s=0)
    serial = bench.ask(watch).serial
    bench.kill()
    bench.ask(p.AnnounceWeights(**me("l0"), update=make_update(1, "r0")))
    assert bench.ask(watch).serial > serial


def test_what_was_not_flushed_was_never_said(tmp_path: Path) -> None:
    bench = busy(tmp_path)
    before = fingerprint(bench.ledger)
    bench.service.handle(b"peer", b"1", p.AckBatch(**me("l0"), step=2, batch_id=2), bench.now)
    assert fingerprint(bench.ledger) != before
    bench.kill()
    assert fingerprint(bench.ledger) == before


@pytest.mark.smoke
def test_any_cut_leaves_a_state_that_was_acknowledged(tmp_path: Path) -> None:
    """The journal cut at every byte; each state must be one that the broker was in."""
    states = [fingerprint(Bench(tmp_path / "new").ledger)]

    class Watched(Bench):
        def ask(self, request: Any, request_id: bytes = b"") -> Any:
            reply = super().ask(request, request_id)
            states.append(fingerprint(self.ledger))
            return reply

    bench = Watched(tmp_path / "run")
    bench.hello("l0", "r0")
    bench.train(1)
    content = (tmp_path / "run" / JOURNAL).read_bytes()
    ends = {record.end for record in read_records(content)} | {0}
    seen = set()
    for cut in range(len(content) + 1):
        (tmp_path / "run" / JOURNAL).write_bytes(content[:cut])
        recovered = Bench(tmp_path / "run")
        state = fingerprint(recovered.ledger)
        assert state in states
        seen.add(state)
        assert (tmp_path / "run" / JOURNAL).stat().st_size >= max(e for e in ends if e <= cut)
        recovered.store._disk.close()
    assert len(seen) > 10 and states[-1] in seen


def test_a_flipped_bit_is_noticed_and_nothing_acknowledged_is_dropped(tmp_path: Path) -> None:
    bench = busy(tmp_path)
    bench.store._disk.close()
    path = tmp_path / JOURNAL
    content = path.read_bytes()
    records = list(read_records(content))
    rng = random.Random(0)
    for offset in range(len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << rng.randrange(8)
        if offset < records[-2].end:
            with pytest.raises(CorruptJournal, match="damaged"):
                list(read_records(bytes(damaged)))
        else:  # the last record: nobody can tell it from a torn end
            assert len(list(read_records(bytes(damaged)))) == len(records) - 1


@pytest.mark.parametrize("change", ["missing", "twice", "swapped"])
def test_lost_repeated_and_swapped_records_are_noticed(change: str) -> None:
    frames = [encode_record(n, 0.0, "lapse", (float(n),), ()) for n in range(5)]
    if change == "missing":
        del frames[2]
    elif change == "twice":
        frames.insert(2, frames[3])
    else:
        frames[1], frames[2] = frames[2], frames[1]
    with pytest.raises(CorruptJournal):
        list(read_records(b"".join(frames)))


@pytest.mark.parametrize(("group_id", "num_taken"), [("0/2", 0), ("0/4", 2)])
def test_damaged_trajectories_are_generated_again(
    tmp_path: Path, group_id: str, num_taken: int
) -> None:
    """0/2 is in the step under way, 0/4 waits for the next."""
    bench = busy(tmp_path)
    bench.take(2)
    place = bench.store._places[group_id, 0]
    bench.store._disk.close()
    content = bytearray((tmp_path / place.segment).read_bytes())
    content[place.offset + place.length - 40] ^= 4
    (tmp_path / place.segment).write_bytes(content)
    bench.open()
    assert bench.ledger.books.samples.expired_by_reason == {"damaged": 1}
    before = fingerprint(bench.ledger)
    bench.kill()  # it is journaled
    assert fingerprint(bench.ledger) == before
    assert bench.take(2).num_groups == num_taken
    again = bench.lease(1, version=1)
    assert [(x.group_id, x.attempt) for x in again.leases] == [(group_id, 1)]
    bench.submit(again, version=1)
    assert bench.take(2).num_groups == 2


def test_a_group_can_be_taken_before_it_is_on_the_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hello("l0", "r0")
    first, second = bench.lease(2).leases
    bench.submit(p.Leases(leases=(first,)))
    held = p.TakeBatch(**me("l0"), step=1, wait_s=30)
    assert bench.service.handle(b"", b"held", held, bench.now) == []
    request = submission(me("r0"), make_group(second, 0))
    _, taken = bench.service.handle(b"", b"last", request, bench.now)
    assert taken.request_id == b"held" and taken.message.num_groups == 2  # type: ignore


def test_segments_are_arrow_streams(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.hello("l0", "r0")
    sent = bench.submit(bench.lease())
    (segment,) = tmp_path.glob("segment-*")
    table = pa.ipc.open_stream(segment.read_bytes()).read_all()
    assert table.num_rows == sum(len(group.trajectories) for group in sent)
    tokens = table.column("response_token_ids").to_pylist()
    assert tokens == [t.response_token_ids.tolist() for group in sent for t in group.trajectories]


def test_segments_are_deleted_once_no_rewind_can_need_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, segment_bytes=1)  # one group each
    bench.hello("l0", "r0")
    bench.ask(p.AckWeights(**me("r0"), history=0, version=0))
    for step in (1, 2, 3):
        bench.train(step)
    num_before = len(list(tmp_path.glob("segment-*")))
    bench.ask(p.CommitStep(**me("l0"), step=2, oldest=0))
    assert len(list(tmp_path.glob("segment-*"))) == num_before
    bench.ask(p.CommitStep(**me("l0"), step=3, oldest=2))
    assert len(list(tmp_path.glob("segment-*"))) == num_before - 4  # two steps of two groups
    before = fingerprint(bench.ledger)
    bench.kill()
    assert fingerprint(bench.ledger) == before
    bench.ask(p.TakeBatch(**me("l0"), step=4, wait_s=0))


@pytest.mark.smoke
def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    busy(tmp_path).store._disk.close()
    with pytest.raises(ConfigError, match=r"learner.groups_per_step = 3, .*begun with 2.*Fix"):
        Bench(tmp_path, make_rules(3, 1))
    again = Bench(tmp_path, make_rules(2, 1, lease_s=77.0, max_steps=3))  # may change
    assert again.ledger.rules.lease_s == 77.0 and again.ledger.steps.total_steps == 3
    again.kill()
    assert again.ledger.rules.lease_s == 77.0


# ---- disks that fail -----------------------------------------------------------------------------


def full_disk_service(folder: Path, fsync: Any = "never") -> tuple[BrokerService, Any, FullDisk]:
    disk = FullDisk(folder)
    service, store, _ = open_durable(disk, make_source(NUM_SAMPLES), make_rules(2, 1), fsync=fsync)
    return service, store, disk


@pytest.mark.parametrize("room", range(0, 400, 23))
def test_a_full_disk_stops_the_broker_and_loses_nothing(tmp_path: Path, room: int) -> None:
    bench = Bench(tmp_path)
    bench.store._disk.close()
    disk = FullDisk(tmp_path)
    bench.service, bench.store, _ = open_durable(
        disk, make_source(NUM_SAMPLES), make_rules(2, 1), fsync="never"
    )
    bench.hello("l0", "r0")
    disk.room = room
    withheld: list[Any] = []
    leases = bench.service.handle(
        b"", b"1", p.LeaseRequest(
            **me("r0"), max_groups=2, history=0, serving_version=0, wait_s=0
        ), 1.0,
    )  # fmt: skip
    withheld += leases
    try:
        bench.store.flush()
        for number, granted in enumerate(leases[0].message.leases):  # type: ignore[attr-defined]
            request = submission(me("r0"), make_group(granted, 0))
            withheld += bench.service.handle(b"", b"%d" % (2 + number), request, 2.0)
        bench.store.flush()
        pytest.skip("there was room for all")
    except StoreFailure as failure:
        assert "No space left" in str(failure) and "Fix" in str(failure)
    refused = bench.service.handle(b"", b"9", p.Goodbye(**me("r0")), 3.0)
    assert refused[0].message.code == "store_failure"  # type: ignore[attr-defined]
    status = bench.service.handle(b"", b"9", p.GetStatus(), 3.0)
    assert isinstance(status[0].message, p.Status)
    disk.room = 10**9
    bench.store.flush()
    assert bench.store.failure is None
    before = fingerprint(bench.ledger)
    bench.kill()
    assert fingerprint(bench.ledger) == before


def test_the_end_of_a_run_is_not_acknowledged_before_it_is_kept(tmp_path: Path) -> None:
    bench = busy(tmp_path)
    bench.store.failure = "the journal cannot be written"
    finish = p.Finish(**me("l0"), reason="the last step is trained")
    refused = bench.service.handle(b"", b"1", finish, bench.now)[0].message
    assert isinstance(refused, p.Refused) and refused.code == "store_failure"
    assert not bench.service.is_finished
    bench.store.failure = None
    assert bench.ask(finish).finished


class SlowDisk(FullDisk):
    """Waits before it takes anything, and then has no room."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.is_asked, self.goes_on = threading.Event(), threading.Event()

    def append(self, name: str, content: bytes) -> None:
        self.is_asked.set()
        assert self.goes_on.wait(10)
        super().append(name, content)


def test_what_comes_during_a_flush_in_a_thread_is_kept_whatever_becomes_of_it(
    tmp_path: Path,
) -> None:
    disk = SlowDisk(tmp_path)
    disk.room = 0
    store = DurableStore(disk, fsync="interval")
    store.record(1.0, "finish", ())
    with ThreadPoolExecutor(1) as pool:
        flush = pool.submit(store.flush)
        assert disk.is_asked.wait(10)
        store.put(("0/0", 1), b"a group")
        store.must_sync()  # does not wait for the disk
        assert not flush.done()
        disk.goes_on.set()
        with pytest.raises(StoreFailure):
            flush.result()
    disk.room = 10**9
    assert store.is_dirty and store.blocks
    store.flush()
    assert not store.is_dirty and store.figures()["syncs"] == 1
    names = [record.command for record in read_records(disk.read(JOURNAL))]
    assert names == ["finish", "stored"]
    store.close()


class RestartedDisk(FullDisk):
    boot = "another"


def test_openings_that_fail_on_a_full_disk_only_begin_histories(tmp_path: Path) -> None:
    bench = busy(tmp_path)
    bench.store._disk.close()
    whole = (tmp_path / JOURNAL).read_bytes()
    for room in (0, 20, 60, 60):  # nothing, half of the new history, it and half of the opening
        disk = RestartedDisk(tmp_path)
        disk.room = room
        with pytest.raises(StoreFailure, match="No space left"):
            open_durable(disk, make_source(NUM_SAMPLES), bench.rules, fsync="never")
        disk.close()
    assert (tmp_path / JOURNAL).read_bytes().startswith(whole)
    states = []
    for _ in range(2):  # the first finds the failed openings in the journal; both the same state
        disk = RestartedDisk(tmp_path)
        service, store, _ = open_durable(disk, make_source(NUM_SAMPLES), bench.rules, fsync="never")
        states.append(fingerprint(service.ledger))
        store.close()
    assert states[0] == states[1]
    assert (service.ledger.history, service.ledger.version) == (3, 1)
    assert [entry.group_id for entry in service.ledger.needed()] == ["0/2", "0/3", "0/4", "0/5"]


def test_a_disk_that_fails_to_sync_ends_the_broker(tmp_path: Path) -> None:
    service, store, disk = full_disk_service(tmp_path, "always")
    disk.fails_to_sync = True
    service.handle(b"", b"1", p.Hello(member_id="r0", role=p.Role.ROLLOUT, incarnation=1), 1.0)
    with pytest.raises(StoreLost, match="Input/output error"):
        store.flush()


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_when_the_disk_is_waited_for(tmp_path: Path, fsync: Any) -> None:
    bench = Bench(tmp_path, fsync=fsync)

    def num_syncs() -> float:
        return bench.store.figures()["syncs"]

    before = num_syncs()
    bench.hello("l0", "r0")
    assert num_syncs() == before + 2
    bench.submit(bench.lease(1))
    assert num_syncs() == before + (4 if fsync == "always" else 2)
    bench.ask(p.CommitStep(**me("l0"), step=0, oldest=0))  # whatever the policy
    bench.ask(p.Resume(**me("l0"), step=0))
    assert num_syncs() == before + (6 if fsync == "always" else 4)


def test_a_store_can_be_closed_twice_over(tmp_path: Path) -> None:
    store = DurableStore(FolderDisk(tmp_path), fsync="interval")
    store.record(0.0, "begin", ({},))
    store.flush()
    store.close()
    assert next(read_records((tmp_path / JOURNAL).read_bytes())).command == "begin"


def test_what_the_cache_has_no_room_for_is_read_from_the_disk(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.store._recent = RecentGroups(0)
    bench.hello("l0", "r0")
    sent = bench.submit(bench.lease())
    assert bench.store._recent.get((sent[0].group_id, 0)) is None
    assert bench.take(1).groups == tuple(map(group_batch.encode, sent[:2]))


def test_the_cache_drops_the_oldest_but_nothing_unwritten() -> None:
    recent = RecentGroups(10)
    for name in ("a", "b", "c"):
        recent.add((name, 0), b"12345")
    recent.shrink({("a", 0)})
    assert recent.get(("a", 0)) is not None  # it is on no disk yet
    recent.shrink(set())
    assert recent.get(("a", 0)) is None and recent.get(("b", 0)) is not None
    recent.keep({("c", 0)})
    assert recent.get(("b", 0)) is None and recent.get(("c", 0)) == b"12345"


def test_failures_and_their_reasons_survive_the_broker(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_rules(2, 1, max_attempts=2))
    bench.hello("l0", "r0")
    first, second, _ = bench.lease(3).leases
    for reason in ("HTTP 500", "HTTP 500 again"):
        bench.ask(
            p.GiveBack(
                **me("r0"), group_id=first.group_id, attempt=0 if reason == "HTTP 500" else 1,
                reason=reason, blame=p.Blame.SAMPLE,
            )
        )  # fmt: skip
        bench.lease(1)
    bench.ask(p.Goodbye(**me("r0"), failure="the engine died"))
    before = fingerprint(bench.ledger)
    bench.kill()
    assert fingerprint(bench.ledger) == before
    assert [record.reason for record in bench.ledger.quarantine.records] == ["HTTP 500 again"]
    assert bench.ledger._groups.by_id[second.group_id].is_suspect


def test_a_run_whose_data_ended_it_is_not_opened_again_unless_it_may_lose_more(
    tmp_path: Path,
) -> None:
    source = make_source(NUM_SAMPLES)
    source.rows = DataRows(NUM_SAMPLES, (), 0)
    bench = Bench(tmp_path, make_rules(2, 1, max_attempts=1))
    bench.hello("r0")
    (granted,) = bench.lease(1).leases
    bench.ask(
        p.GiveBack(
            **me("r0"), group_id=granted.group_id, attempt=0, reason="?", blame=p.Blame.SAMPLE
        )
    )
    bench.store.close()
    journal = (tmp_path / JOURNAL).read_bytes()
    disk = FolderDisk(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.max_refused_share = 0 allows 0: sample s"):
        open_durable(disk, source, bench.rules, fsync="never")
    assert (tmp_path / JOURNAL).read_bytes() == journal, "a refused start writes nothing"
    disk.close()
    bench.open()
    bench.store.close()


def test_a_life_that_another_followed_does_not_come_back_after_a_restart(tmp_path: Path) -> None:
    """Its successor has left, so that nothing but the journal tells of it."""
    bench = Bench(tmp_path)
    bench.hello("r0", incarnation=1)
    bench.hello("r0", incarnation=2)
    bench.ask(p.Goodbye(member_id="r0", incarnation=2))
    bench.kill()
    late = bench.ask(p.Hello(member_id="r0", role=p.Role.ROLLOUT, incarnation=1))
    assert isinstance(late, p.Refused) and late.code == "superseded"
    bench.hello("r0", incarnation=3)
