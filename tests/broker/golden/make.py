"""Make the golden journal anew: python -m tests.broker.golden.make

The journal, its segments and the dataset beside this file are a small run of the build that wrote
them, with every call of the ledger. Later builds must replay them (`test_golden`). They are made
anew only when the format has changed, and `FORMAT` in broker/storage/identity.py with it.

With `state` (python -m tests.broker.golden.make state) only state.json is written, from the journal
that is there: when the tests look at more of the ledger, and the journal's format has not changed.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from broker import protocol as p
from broker.ledger.entry import Entry, Rules
from broker.ledger.ledger import Ledger
from broker.service.opening import open_durable
from broker.storage.disk import FolderDisk
from broker.storage.durable import DurableStore
from broker.storage.recovery import recover
from common.dataset import read_samples
from common.group_batch import encode, read
from common.source import SampleSource
from tests.broker.fingerprint import fingerprint
from tests.broker.support import dataset_rows, make_group, make_rules

HERE = Path(__file__).parent
JOURNAL_FOLDER, DATASET, STATE = HERE / "journal", HERE / "train.parquet", HERE / "state.json"
NUM_SAMPLES = 12
ROLES = {"r": p.Role.ROLLOUT, "l": p.Role.LEARNER}


def source() -> SampleSource:
    samples, bad = read_samples(DATASET)
    assert not bad and len(samples) == NUM_SAMPLES
    return SampleSource(samples, epochs=2, seed=7)


def rules(*, lease_s: float, max_steps: int) -> Rules:
    return make_rules(2, 1, lease_s=lease_s, max_attempts=2, max_steps=max_steps, first_rest_s=1.0)


class Disk(FolderDisk):
    """A folder on a machine whose starts are counted."""

    def __init__(self, folder: Path, boot: str) -> None:
        super().__init__(folder)
        self._boot = boot

    @property
    def boot(self) -> str:
        return self._boot


class Life:
    """One life of the broker, without a socket: each request comes a quarter of a second later."""

    def __init__(self, folder: Path, boot: str, rules: Rules) -> None:
        self._disk = Disk(folder, boot)
        self.service, self._store, self.now = open_durable(
            self._disk, source(), rules, fsync="never", dataset=DATASET.name, segment_bytes=6000
        )
        self._num_asked = 0
        self._lives: dict[str, int] = {}  # incarnations, by member

    def __enter__(self) -> "Life":
        return self

    def __exit__(self, *_: object) -> None:
        self._store.flush()
        self._store.sync()
        self._disk.close()

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    def me(self, name: str) -> dict[str, Any]:
        return {"member_id": name, "incarnation": self._lives[name]}

    def ask(self, request: Any) -> Any:
        self.now += 0.25
        self._num_asked += 1
        (reply,) = self.service.handle(b"", b"%d" % self._num_asked, request, self.now)
        self._store.flush()
        return reply.message

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.service.tick(self.now)

    def hello(self, incarnation: int, *names: str) -> None:
        for name in names:
            self._lives[name] = incarnation
            welcome = self.ask(p.Hello(**self.me(name), role=ROLES[name[0]]))
            assert isinstance(welcome, p.Welcome)

    def goodbye(self, *names: str, failure: str = "") -> None:
        for name in names:
            self.ask(p.Goodbye(**self.me(name), failure=failure))

    def resume(self, name: str, step: int) -> None:
        assert isinstance(self.ask(p.Resume(**self.me(name), step=step)), p.Resumed)

    def serve(self, *names: str) -> None:
        for name in names:
            ledger = self.ledger
            self.ask(p.AckWeights(**self.me(name), history=ledger.history, version=ledger.version))

    def lease(self, name: str, count: int = 9) -> tuple[Any, ...]:
        request = p.LeaseRequest(
            **self.me(name),
            max_groups=count,
            history=self.ledger.history,
            serving_version=self.ledger.version,
            wait_s=0,
        )
        leases: tuple[Any, ...] = self.ask(request).leases
        return leases

    def submit(self, name: str, *leases: Any) -> None:
        for lease in leases:
            group = make_group(lease, self.ledger.version, tokens=3 + lease.attempt % 4)
            submitted = self.ask(p.SubmitGroups(**self.me(name), groups=(encode(group),)))
            assert submitted.outcomes == (p.Verdict.ACCEPTED,)

    def give_back(self, name: str, lease: Any, blame: p.Blame) -> None:
        reason = "the engine's answer was useless"
        self.ask(
            p.GiveBack(
                **self.me(name), group_id=lease.group_id, attempt=lease.attempt, reason=reason,
                blame=blame,
            )
        )  # fmt: skip

    def take(self, name: str, step: int, rank: int = 0, world_size: int = 1) -> p.Batch:
        request = p.TakeBatch(
            **self.me(name), step=step, rank=rank, world_size=world_size, wait_s=0
        )
        batch: p.Batch = self.ask(request)
        return batch

    def train(self, step: int, *learners: str, refused: Mapping[str, str] | None = None) -> None:
        """Train one step with all `learners` as its ranks; the last of them refuses groups."""
        for _ in range(20):
            self.submit("r0", *self.lease("r0"))
            if self.take(learners[0], step, 0, len(learners)).groups:
                break
            self.wait(1.0)  # until what has failed may be tried again
        for rank, name in enumerate(learners):
            taking = self.take(name, step, rank, len(learners)).batch_id
            is_last = rank == len(learners) - 1
            acknowledged = self.ask(
                p.AckBatch(
                    **self.me(name), step=step, batch_id=taking, rank=rank,
                    refused=(refused or {}) if is_last else {},
                )
            )  # fmt: skip
        assert acknowledged.is_complete


def play(folder: Path) -> None:
    """Every call of the ledger, in three lives of the broker."""
    with Life(folder, "boot-1", rules(lease_s=10.0, max_steps=3)) as life:
        life.hello(1, "l0", "l1", "r0", "r1")
        life.serve("r0", "r1")
        life.lease("r1", 1)
        life.wait(11.0)  # its lease lapses
        broken, *_ = life.lease("r0", 1)
        life.give_back("r0", broken, p.Blame.SAMPLE)
        life.lease("r1", 1)
        life.goodbye("r1", failure="the engine died")
        life.hello(2, "r1")
        life.train(1, "l0", "l1", refused={})
        life.serve("r0", "r1")
        life.wait(3.0)
        again = [lease for lease in life.lease("r1") if lease.attempt > 0]
        for lease in again[:1]:
            life.give_back("r1", lease, p.Blame.SAMPLE)  # its second failure: quarantined
        life.wait(11.0)
        refused = _last_of_next(life, 2)
        life.train(2, "l0", "l1", refused={refused: "no box in the picture"})
        life.serve("r0", "r1")
        life.ask(p.CommitStep(**life.me("l0"), step=2, oldest=1))
    with Life(folder, "boot-1", rules(lease_s=20.0, max_steps=3)) as life:
        life.hello(2, "l0")
        life.resume("l0", 2)
        life.hello(3, "r0")
        life.serve("r0")
        life.train(3, "l0")
        life.hello(3, "l0")
        life.resume("l0", 2)  # step 3 is undone
        life.serve("r0")
        life.train(3, "l0")
        life.ask(p.CommitStep(**life.me("l0"), step=3, oldest=2))
        life.ask(p.Finish(**life.me("l0"), reason="done"))
        life.goodbye("l0", "r0")
    with Life(folder, "boot-2", rules(lease_s=20.0, max_steps=6)) as life:
        life.hello(4, "l0", "r0", "r1")
        life.resume("l0", 3)
        life.serve("r0", "r1")
        life.submit("r0", *life.lease("r0", 3))
        lost = life.ledger.needed()[-1]
        life.service.change(life.now, life.ledger.lose, lost.group_id, lost.attempt)
        assert life.take("l0", 4).groups
        life.lease("r1", 1)


def _last_of_next(life: Life, step: int) -> str:
    """Fill the next step of two ranks, and name a group that the last one gets."""
    while not life.take("l0", step, 0, 2).groups:
        life.submit("r0", *life.lease("r0"))
        life.wait(1.0)
    assert life.ledger.steps.current is not None
    return life.ledger.steps.current.shard(1)[-1].group_id


# ---- what a replay of it must give ---------------------------------------------------------------
def state_of(folder: Path) -> dict[str, Any]:
    """The ledger behind the journal in `folder`, and the content of each group that it still holds.

    The folder is only read.
    """
    disk = FolderDisk(folder)
    found = recover(disk, source(), rules(lease_s=20.0, max_steps=6), DATASET.name)
    assert found is not None
    store = DurableStore(disk, fsync="never", places=found.places)
    held = {entry.group_id: _content(store, entry) for entry in found.ledger.needed()}
    return {"ledger": _plain(fingerprint(found.ledger)), "groups": held}


def _content(store: DurableStore, entry: Entry) -> str:
    """A digest of all that a learner reads of a group, however it is encoded."""
    group = read(store.get(entry))
    assert group.attempt == entry.attempt
    rows = [
        (
            t.index,
            t.response_token_ids.tolist(),
            t.rollout_logprobs.tolist(),
            [(span.version, span.start, span.end) for span in t.version_spans],
            t.cache_version,
            str(t.finish_reason),
        )
        for t in group.trajectories
    ]
    prompt = (group.prompt_token_ids.tolist(), group.num_prompt_tokens, group.view.model_dump())
    content = (group.group_id, group.attempt, group.sample_id, prompt, rows)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """The same in what JSON has."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value.item() if isinstance(value, np.generic) else value


def write_state() -> None:
    text = json.dumps(state_of(JOURNAL_FOLDER), indent=1)
    STATE.write_text(text + "\n", encoding="utf-8")


def write_dataset() -> None:
    pq.write_table(pa.Table.from_pylist(dataset_rows(NUM_SAMPLES)), DATASET)


if __name__ == "__main__":
    if sys.argv[1:] != ["state"]:
        shutil.rmtree(JOURNAL_FOLDER, ignore_errors=True)
        write_dataset()
        play(JOURNAL_FOLDER)
    write_state()
